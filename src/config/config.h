// The configuration as plain data. Every field has its default here; config/parse.cpp reads it, config/check.cpp
// checks what one key alone cannot tell, config/write.cpp writes it with every key.
#pragma once
#include "core/dtype.h"
#include "core/json.h"
#include "kernels/types.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sffn {

enum class Norm : uint8_t { kLayer, kRms };
enum class Positions : uint8_t { kLearned, kSinusoidal, kRope };
enum class InitScheme : uint8_t { kGpt, kXl };
enum class Precision : uint8_t { kFp32, kBf16, kFp64, kComplex };  // the last two: tests only, not in configurations
enum class Recompute : uint8_t { kNone, kFfn, kBlock };
enum class ScheduleType : uint8_t { kLinear, kCosine, kWsd, kInverseSqrt, kConstant };

struct FfnConfig {
  std::string type = "dense";
  int64_t d_ff = 0;  // absent in a file: 4 · d_model
  Activation activation = Activation::kGelu;
  bool gated = false;  // swiglu, geglu
  bool bias = true;

  bool operator==(const FfnConfig&) const = default;
};

struct ModelConfig {
  std::string backbone = "gpt";  // gpt | llama: presets of the fields below
  int64_t vocab_size = 0;        // 0 in the struct: "from_data", replaced before the model is built
  int64_t vocab_multiple = 128;  // rows of the embedding in memory are a multiple of this
  int64_t context = 0, layers = 0, d_model = 0, heads = 0, kv_heads = 0, head_dim = 0;
  Norm norm = Norm::kLayer;
  double norm_eps = 1e-5;
  Positions positions = Positions::kLearned;
  double rope_theta = 10000;
  bool attention_bias = true, output_bias = false;
  bool tie_embeddings = true;
  double dropout = 0;
  InitScheme init = InitScheme::kGpt;
  FfnConfig ffn;
  Json sparse_ffn = Json::array();  // as in the file: the ffn layer reads the entries' methods
  bool on_gpu = false;              // not in the file: what is planned and resolved is for a GPU

  int64_t padded_vocab() const { return (vocab_size + vocab_multiple - 1) / vocab_multiple * vocab_multiple; }
  bool operator==(const ModelConfig&) const = default;
};

struct CorpusConfig {
  std::string path;  // a glob
  double weight = 1;

  bool operator==(const CorpusConfig&) const = default;
};

struct DataConfig {
  std::vector<CorpusConfig> train;
  std::map<std::string, std::string> validation;  // name -> glob
  bool document_mask = false;

  bool operator==(const DataConfig&) const = default;
};

struct ScheduleConfig {
  ScheduleType type = ScheduleType::kCosine;
  int64_t warmup_steps = 0;
  int64_t decay_steps = 0;  // wsd
  double final_lr = 0;

  bool operator==(const ScheduleConfig&) const = default;
};

struct OptimizerConfig {
  std::string type = "adamw";
  double lr = 3e-4;
  double beta1 = 0.9, beta2 = 0.98, eps = 1e-8, weight_decay = 0.01, clip = 1.0;  // clip 0: none
  ScheduleConfig schedule;

  bool operator==(const OptimizerConfig&) const = default;
};

// Limits without progress (a micro-batch, a block of a save or of an evaluation) before the watchdog ends the job.
struct WatchdogConfig {
  int64_t start_seconds = 1800;  // until the first step is done
  int64_t step_seconds = 600;

  bool operator==(const WatchdogConfig&) const = default;
};

struct TrainConfig {
  int64_t steps = 1000;
  int64_t tokens_per_step = 0;  // of all ranks together; absent in a file: micro_batch · context
  int64_t micro_batch = 1;      // sequences
  Precision precision = Precision::kFp32;
  uint64_t seed = 1;
  Recompute recompute = Recompute::kNone;
  bool deterministic = true;
  WatchdogConfig watchdog;

  bool operator==(const TrainConfig&) const = default;
};

enum class Dispatch : uint8_t { kAuto, kGather, kAllToAll };

struct ParallelConfig {
  int64_t expert = 1;
  int64_t expert_chunk = 8192;  // tokens of a rank
  Dispatch dispatch = Dispatch::kAuto;
  int64_t zero = 1;

  bool operator==(const ParallelConfig&) const = default;
};

struct EvaluationConfig {
  int64_t every = 0;   // 0: only at the end
  int64_t tokens = 0;  // per set; 0: all

  bool operator==(const EvaluationConfig&) const = default;
};

struct CheckpointConfig {
  int64_t every = 0;  // 0: only at step 0, at the end and on a stop signal
  int64_t keep = 3;
  int64_t keep_every = 0;    // steps that are multiples of this are never deleted; 0: none
  int64_t max_failures = 3;  // failed saves in a row that end the run

  bool operator==(const CheckpointConfig&) const = default;
};

struct LogConfig {
  int64_t every = 10;
  bool tensorboard = true;
  bool state_hash = false;
  bool block_load = false;

  bool operator==(const LogConfig&) const = default;
};

struct Config {
  std::string name = "run";
  std::string backend = "auto";
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  TrainConfig train;
  ParallelConfig parallel;
  EvaluationConfig evaluation;
  CheckpointConfig checkpoint;
  LogConfig log;

  bool operator==(const Config&) const = default;
  DType dtype() const {  // of activations and matrices
    switch (train.precision) {
      case Precision::kBf16:
        return DType::kBF16;
      case Precision::kFp64:
        return DType::kF64;
      case Precision::kComplex:
        return DType::kC128;
      default:
        return DType::kF32;
    }
  }
  int64_t sequences_per_step() const { return train.tokens_per_step / model.context; }
  int64_t micro_batches_per_step() const { return sequences_per_step() / train.micro_batch; }
};

// Reads and checks one file, or config.json of a run's or checkpoint's folder. `overrides` are "path.to.key=value"
// (value is JSON, else a string). A file without a name takes that of the file. Throws a usage error naming the path in
// the file, what is known there and the nearest match.
Config load_config(const std::string& path, const std::vector<std::string>& overrides);
Config parse_config(const Json& json, const std::string& place);
// The resolved configuration: every key, defaults included. parse_config(to_json(c)) == c.
Json to_json(const Config&);

// "path.to.key=value" written into `json`: objects on the way are made, list items are named by their index (one past
// the end appends). Throws UsageError naming the argument.
void apply_override(Json& json, const std::string& argument);

// Rules that several keys share; parse_config has called it. Throws UsageError "FILE: path: rule".
void check_config(const Config&, const std::string& place);

}  // namespace sffn
