// The methods a feed-forward layer may use. A method is one file in ffn/methods that registers itself: name, source, a
// tiny configuration, and how its options are read; options know what a layer costs and how to make one.
#pragma once
#include "config/config.h"
#include "config/reader.h"
#include "config/schema.h"
#include "core/params.h"
#include "ffn/block_store.h"
#include "ffn/dispatch.h"
#include "ffn/ffn.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

// What a layer is built into.
struct FfnBuild {
  ParamStore& params;
  const ModelConfig& model;
  Recompute recompute = Recompute::kNone;
  int64_t layer = 0;  // parameters are named layers.LAYER.ffn…
  ExpertShare share = {};
  ParamStore* blocks = nullptr;  // of this rank's tables of blocks, where these are spread
};

// The options of one layer, read and checked.
class FfnOptions {
 public:
  virtual ~FfnOptions() = default;
  virtual FfnCost cost(const ModelConfig&) const = 0;
  virtual std::unique_ptr<FfnLayer> make(const FfnBuild&) const = 0;
  // Of the blocks, which expert ranks may share; nullptr: the method has none.
  virtual const BlockShape* block_shape() const { return nullptr; }
  virtual bool weighs_blocks() const { return false; }  // whether an output is multiplied by a weight
  // Of a token where the blocks are spread over ranks; a method without blocks has none.
  virtual TokenTrips token_trips(const ModelConfig& model, int64_t value_bytes) const {
    return trips_of_choices(*block_shape(), weighs_blocks(), model.d_model, value_bytes);
  }
  // Sets what depends on the run in a resolved entry: `tokens` of a micro-batch, in activations of `dtype`.
  virtual void resolve(Json& /*entry*/, DType /*dtype*/) const {}
};

struct FfnMethod {
  std::string name;         // "type" in a configuration
  std::string summary;      // one line: what it computes
  std::string source;       // paper and section
  std::string tiny_config;  // JSON of an entry for d_model 16 and d_ff 32: what the conformance tests run
  // Reads the keys of an entry; absent ones come from model.ffn.
  std::unique_ptr<FfnOptions> (*parse)(ConfigReader&, const ModelConfig&) = nullptr;
};

// A namespace-scope constant of this type registers a method before main.
struct RegisterFfn {
  explicit RegisterFfn(FfnMethod);
};

std::vector<const FfnMethod*> ffn_methods();              // by name
const FfnMethod* find_ffn_method(std::string_view name);  // nullptr when unknown

// The keys of an entry of one method, beside "layers" and "type".
Schema method_schema(const FfnMethod&);
// Every method with its keys: the end of configs/README.md.
std::string methods_reference_markdown();

struct FfnEntry {
  std::string type;
  std::unique_ptr<FfnOptions> options;
  Json resolved;  // the entry with every key of its method
};

// The method of every layer, in order: model.ffn, and what model.sparse_ffn puts in its place. Throws UsageError
// "FILE: path: …" for an unknown type or key, a layer that does not exist, or two entries that claim one layer.
std::vector<FfnEntry> resolve_ffn(const ModelConfig&, const std::string& file);

// The resolved configuration, the entries of sparse_ffn with every key of their methods. parse_config of it is the same
// run.
Json resolved_json(const Config&);

}  // namespace sffn
