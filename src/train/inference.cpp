#include "train/inference.h"

#include "comm/agree.h"
#include "data/corpus.h"
#include "model/memory_plan.h"
#include "train/memory_check.h"
#include "train/state.h"

#include <algorithm>

namespace sffn {

InferenceModel::InferenceModel(Communicator& comm, DeviceRuntime& runtime, const std::string& path, int64_t batch,
                               int64_t time, const ReadOptions& read)
    : found_(find_checkpoint(comm, path, read)),
      runtime_(runtime),
      batch_(batch),
      stream_(runtime),
      alone_(make_self_communicator()) {
  together(comm, [&] {
    config_ = parse_config(found_.config, found_.folder + "/config.json");
    time_ = time == 0 ? config_.model.context : time;
    if (time_ > config_.model.context && config_.model.positions != Positions::kRope) {
      throw UsageError("--context",
                       cat(time_, " is beyond the ", config_.model.context, " positions of ", found_.folder));
    }
    const MemoryPlan memory = measure_memory(config_, batch_, time_, runtime);
    const PassPlan& plan = memory.evaluate;
    require_memory(runtime.device(), memory.parameters + memory.constants + plan.saved + plan.scratch, [&] {
      return cat(plan.saved + plan.scratch, " of them for ", batch_, " rows of ", time_,
                 " tokens: a smaller --batch or --context needs less");
    });
    saved_ = std::make_unique<Arena>(runtime, "saved", plan.saved);
    scratch_ = std::make_unique<Arena>(runtime, "scratch", plan.scratch);
    model_ = std::make_unique<Transformer>(config_);
    model_->allocate(runtime);
  });
  ModelPieces whole = whole_pieces(stream_, model_->params());
  ReadOptions verified = read;
  verified.verify = false;  // done when it was found
  read_parameters(comm, found_, whole.pieces, verified);
  store_values(stream_, model_->params(), whole);
}

Context InferenceModel::context() {
  saved_->reset();
  Context ctx{stream_, *saved_, *scratch_, {alone_.get(), alone_.get(), alone_.get()}, config_.train.seed, 0, 0, false};
  ctx.count_choices = count_choices_;
  return ctx;
}

std::vector<float> InferenceModel::token_nll(const Batch& batch) {
  std::vector<float> nll;
  Context ctx = context();
  model_->evaluate(ctx, batch, &nll);
  return nll;
}

std::vector<float> InferenceModel::decode(const std::vector<int32_t>& tokens) {
  if (!cache_) cache_ = std::make_unique<KeyValueCache>(runtime_, config_, 1, time_);
  decoded_.insert(decoded_.end(), tokens.begin(), tokens.end());
  Context ctx = context();
  if (cache_->length() + std::ssize(tokens) <= time_) return model_->decode(ctx, *cache_, tokens);
  cache_->clear();
  const int64_t kept = std::min<int64_t>(std::max<int64_t>(1, time_ / 2), std::ssize(decoded_));
  decoded_.erase(decoded_.begin(), decoded_.end() - kept);
  return model_->decode(ctx, *cache_, decoded_);
}

std::unique_ptr<Tokenizer> InferenceModel::tokenizer() const {
  const std::string place = found_.folder + "/trainer.json: tokenizer";
  const Json* json = found_.trainer.find("tokenizer");
  if (json == nullptr || json->is_null()) {
    throw UsageError(place, "is not known: the model was trained on shards without a manifest");
  }
  const auto text = [&](const char* key) {
    const Json* value = json->find(key);
    if (value == nullptr || !value->is_string()) throw DamagedError(place, cat(key, " is not a text"));
    return value->as_string();
  };
  const auto number = [&](const char* key) {
    const Json* value = json->find(key);
    if (value == nullptr || !value->is_int()) throw DamagedError(place, cat(key, " is not an integer"));
    return value->as_int();
  };
  TokenizerInfo info;
  info.name = text("name");
  info.path = text("path");
  info.vocab_size = number("vocab_size");
  info.end_of_document = static_cast<int32_t>(number("end_of_document"));
  if (!parse_hash(text("hash"), info.hash)) throw DamagedError(place, "hash is not 32 hex digits");
  return load_tokenizer(info);
}

}  // namespace sffn
