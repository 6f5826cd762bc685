// A model loaded from a checkpoint for evaluation and generation: weights and one pair of arenas, no optimizer.
#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "core/arena.h"
#include "data/batch_source.h"
#include "data/tokenizer.h"
#include "model/key_value_cache.h"
#include "model/transformer.h"
#include "train/checkpoint/checkpoint.h"

#include <memory>
#include <string>
#include <vector>

namespace sffn {

class InferenceModel {
 public:
  // `path`: a step folder, or a run folder and then its newest sound step. Batches have at most `batch` rows of `time`
  // tokens; time 0: the context of the model. Collective. Throws DamagedError for a checkpoint that is not sound,
  // UsageError for a time that the model's positions do not cover.
  InferenceModel(Communicator& comm, DeviceRuntime& runtime, const std::string& path, int64_t batch, int64_t time,
                 const ReadOptions& read = {});

  const FoundCheckpoint& checkpoint() const { return found_; }
  const Config& config() const { return config_; }
  int64_t batch() const { return batch_; }
  int64_t time() const { return time_; }
  Transformer& model() { return *model_; }
  Stream& stream() { return stream_; }

  std::vector<float> token_nll(const Batch& batch);  // -log p [B·T]; 0 where the target is -1
  // From now on passes count their choices (FfnLayer::counters).
  void count_choices() { count_choices_ = true; }
  // Logits [V] of the token that follows `tokens`, which go on where the last call ended: a prompt first, then one
  // token at a time. Keys and values are kept. When a context has no room for `tokens`, the last half context of all
  // tokens so far is fed again from position 0.
  std::vector<float> decode(const std::vector<int32_t>& tokens);
  // The tokenizer of the training data, as the checkpoint names it. Throws DamagedError or UsageError.
  std::unique_ptr<Tokenizer> tokenizer() const;

 private:
  Context context();
  FoundCheckpoint found_;
  Config config_;
  DeviceRuntime& runtime_;
  int64_t batch_, time_;
  bool count_choices_ = false;
  Stream stream_;
  std::unique_ptr<Communicator> alone_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<Arena> saved_, scratch_;
  std::unique_ptr<KeyValueCache> cache_;  // of one sequence; made by the first decode()
  std::vector<int32_t> decoded_;          // its last tokens, at most a context of them
};

}  // namespace sffn
