// Evaluation windows over a set of shards, each shard one stream of n tokens. The first token of a stream is not
// scored, every other token exactly once. Window w of a stream has up to N inputs from token w · stride on; the first
// window scores all its targets, each further one its last `stride` (those that no window before it scored).
// Windows are a function of their index, so ranks can share them and fold their sums in fixed order.
#pragma once
#include "data/batch_source.h"
#include "data/corpus.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sffn {

struct EvalOptions {
  int64_t context = 0;     // N
  int64_t stride = 0;      // 1 … N; 0: N
  int64_t max_tokens = 0;  // score only the first so many; 0: all
  int64_t vocab_size = 0;  // the model's; 0: the manifest's
  bool document_mask = false;
};

struct EvalWindow {
  int64_t shard = 0, begin = 0;  // first input token
  int64_t length = 0;            // inputs
  int64_t scored = 0;            // targets, the last of them

  bool operator==(const EvalWindow&) const = default;
};

// Windows [first, first + count), all of one length.
struct EvalBatch {
  int64_t first = 0, count = 0;

  bool operator==(const EvalBatch&) const = default;
};

class EvalSource {
 public:
  // Throws what Corpus throws; UsageError for a stride above the context, for shards without a token to score, and for
  // document_mask without a manifest.
  EvalSource(const std::string& pattern, const EvalOptions& options);

  int64_t windows() const { return window_ends_.back(); }
  int64_t tokens() const { return tokens_; }  // scored in all windows
  EvalWindow window(int64_t index) const;
  // All windows in order, in batches of at most `most`: no batch needs tokens beside those of its windows.
  std::vector<EvalBatch> batches(int64_t most) const;
  // A row for each window. With rows > 0 so many of N tokens instead; what lies beyond the windows is not scored.
  Batch batch(const EvalBatch& at, int64_t rows = 0) const;

  // Bytes of text that the scored targets of a batch stand for: an end of document counts 0. Nothing where the bytes
  // are not known: no manifest, no tokenizer file, or a tokenizer that is not lossless.
  std::optional<int64_t> scored_bytes(const Batch& batch) const;

  const Corpus& corpus() const { return corpus_; }
  const EvalOptions& options() const { return options_; }  // stride filled in

 private:
  void load_byte_lengths();

  Corpus corpus_;
  EvalOptions options_;
  std::vector<int64_t> targets_;      // per shard: to be scored
  std::vector<int64_t> window_ends_;  // windows in shards 0 … i
  int64_t tokens_ = 0;
  std::vector<int32_t> byte_lengths_;  // by id; empty: not known
};

}  // namespace sffn
