// The configuration as plain data. Parsed and cross-checked by config/parse.cpp; every field has its default here.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "kernels/types.h"

namespace sffn {

enum class Norm : uint8_t { kLayer, kRms };
enum class Positions : uint8_t { kLearned, kSinusoidal, kRope };
enum class InitScheme : uint8_t { kGpt, kXl };
enum class Precision : uint8_t { kFp32, kBf16, kFp64, kComplex };  // the last two: tests only, not in configurations
enum class Recompute : uint8_t { kNone, kFfn, kBlock };
enum class ScheduleType : uint8_t { kLinear, kCosine, kWsd, kInverseSqrt, kConstant };

struct FfnConfig {
  std::string type = "dense";
  int64_t d_ff = 0;  // 0 in a file: 4 · d_model
  Activation activation = Activation::kGelu;
  bool gated = false;  // swiglu, geglu
  bool bias = true;
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

  int64_t padded_vocab() const { return (vocab_size + vocab_multiple - 1) / vocab_multiple * vocab_multiple; }
};

struct CorpusConfig {
  std::string path;  // a glob
  double weight = 1;
};

struct DataConfig {
  std::vector<CorpusConfig> train;
  std::map<std::string, std::string> validation;  // name -> glob
  bool document_mask = false;
};

struct ScheduleConfig {
  ScheduleType type = ScheduleType::kCosine;
  int64_t warmup_steps = 0;
  int64_t decay_steps = 0;  // wsd
  double final_lr = 0;
};

struct OptimizerConfig {
  std::string type = "adamw";
  double lr = 3e-4;
  double beta1 = 0.9, beta2 = 0.98, eps = 1e-8, weight_decay = 0.01, clip = 1.0;  // clip 0: none
  ScheduleConfig schedule;
};

struct TrainConfig {
  int64_t steps = 0, tokens_per_step = 0, micro_batch = 1;
  Precision precision = Precision::kFp32;
  uint64_t seed = 1;
  Recompute recompute = Recompute::kNone;
  bool deterministic = true;
};

struct ParallelConfig {
  int64_t expert = 1;
  int64_t zero = 1;
};

struct EvaluationConfig {
  int64_t every = 0;  // 0: only at the end
  int64_t tokens = 0;  // per set; 0: all
};

struct CheckpointConfig {
  int64_t every = 0;  // 0: only at step 0, at the end and on a stop signal
  int64_t keep = 3;
  int64_t keep_every = 0;  // steps that are multiples of this are never deleted; 0: none
};

struct LogConfig {
  int64_t every = 10;
  bool tensorboard = true;
  bool state_hash = false;
};

struct Config {
  std::string name;
  std::string backend = "auto";
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  TrainConfig train;
  ParallelConfig parallel;
  EvaluationConfig evaluation;
  CheckpointConfig checkpoint;
  LogConfig log;

  DType dtype() const {  // of activations and matrices
    switch (train.precision) {
      case Precision::kBf16: return DType::kBF16;
      case Precision::kFp64: return DType::kF64;
      case Precision::kComplex: return DType::kC128;
      default: return DType::kF32;
    }
  }
  int64_t sequences_per_step() const { return train.tokens_per_step / model.context; }
  int64_t micro_batches_per_step() const { return sequences_per_step() / train.micro_batch; }
};

// Reads and checks one file; `overrides` are "path.to.key=value" (value is JSON, else a string). Throws UsageError
// naming the path in the file, what is known there and the nearest match.
Config load_config(const std::string& path, const std::vector<std::string>& overrides);
Config parse_config(const Json& json, const std::string& place);
// The resolved configuration: every key, defaults included. parse_config(to_json(c)) == c.
Json to_json(const Config&);

}  // namespace sffn
