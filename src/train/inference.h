// A model loaded from a checkpoint for evaluation and generation: weights and one pair of arenas, no optimizer.
#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "core/arena.h"
#include "data/batch_source.h"
#include "data/tokenizer.h"
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
  InferenceModel(Communicator& comm, const std::string& path, int64_t batch, int64_t time,
                 const ReadOptions& read = {});

  const FoundCheckpoint& checkpoint() const { return found_; }
  const Config& config() const { return config_; }
  int64_t batch() const { return batch_; }
  int64_t time() const { return time_; }
  Transformer& model() { return *model_; }
  Stream& stream() { return stream_; }

  std::vector<float> token_nll(const Batch& batch);          // -log p [B·T]; 0 where the target is -1
  std::vector<float> next_token_logits(const Batch& batch);  // [B, V], after the last position
  // The tokenizer of the training data, as the checkpoint names it. Throws DamagedError or UsageError.
  std::unique_ptr<Tokenizer> tokenizer() const;

 private:
  Context context();
  FoundCheckpoint found_;
  Config config_;
  int64_t batch_, time_;
  Stream stream_;
  std::unique_ptr<Communicator> alone_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<Arena> saved_, scratch_;
};

}  // namespace sffn
