#include "config/names.h"

namespace sffn {
namespace {

Json model_json(const ModelConfig& m) {
  Json bias;
  bias["attention"] = m.attention_bias;
  bias["ffn"] = m.ffn.bias;
  bias["output"] = m.output_bias;
  Json ffn;
  ffn["type"] = m.ffn.type;
  ffn["d_ff"] = m.ffn.d_ff;
  ffn["activation"] = name_of(kActivationNames, ActivationChoice{m.ffn.activation, m.ffn.gated});
  ffn["bias"] = m.ffn.bias;
  Json json;
  json["backbone"] = m.backbone;
  json["vocab_size"] = m.vocab_size == 0 ? Json("from_data") : Json(m.vocab_size);
  json["vocab_multiple"] = m.vocab_multiple;
  json["context"] = m.context;
  json["layers"] = m.layers;
  json["d_model"] = m.d_model;
  json["heads"] = m.heads;
  json["kv_heads"] = m.kv_heads;
  json["head_dim"] = m.head_dim;
  json["norm"] = name_of(kNormNames, m.norm);
  json["norm_eps"] = m.norm_eps;
  json["positions"] = name_of(kPositionsNames, m.positions);
  json["rope_theta"] = m.rope_theta;
  json["bias"] = bias;
  json["tie_embeddings"] = m.tie_embeddings;
  json["dropout"] = m.dropout;
  json["init"] = name_of(kInitNames, m.init);
  json["ffn"] = ffn;
  json["sparse_ffn"] = m.sparse_ffn;
  return json;
}

Json data_json(const DataConfig& d) {
  Json train = Json::array(), validation = Json::object();
  for (const CorpusConfig& corpus : d.train) {
    Json entry;
    entry["path"] = corpus.path;
    entry["weight"] = corpus.weight;
    train.push_back(entry);
  }
  for (const auto& [name, path] : d.validation) validation[name] = path;
  Json json;
  json["train"] = train;
  json["validation"] = validation;
  json["document_mask"] = d.document_mask;
  return json;
}

Json optimizer_json(const OptimizerConfig& o) {
  Json schedule;
  schedule["type"] = name_of(kScheduleNames, o.schedule.type);
  schedule["warmup_steps"] = o.schedule.warmup_steps;
  schedule["decay_steps"] = o.schedule.decay_steps;
  schedule["final_lr"] = o.schedule.final_lr;
  Json json;
  json["type"] = o.type;
  json["lr"] = o.lr;
  json["betas"] = Json::Array{o.beta1, o.beta2};
  json["eps"] = o.eps;
  json["weight_decay"] = o.weight_decay;
  json["clip"] = o.clip;
  json["schedule"] = schedule;
  return json;
}

Json train_json(const TrainConfig& t) {
  Json watchdog;
  watchdog["start_seconds"] = t.watchdog.start_seconds;
  watchdog["step_seconds"] = t.watchdog.step_seconds;
  Json json;
  json["steps"] = t.steps;
  json["tokens_per_step"] = t.tokens_per_step;
  json["micro_batch"] = t.micro_batch;
  json["precision"] = name_of(kPrecisionNames, t.precision);
  json["seed"] = static_cast<int64_t>(t.seed);
  json["recompute"] = name_of(kRecomputeNames, t.recompute);
  json["deterministic"] = t.deterministic;
  json["watchdog"] = watchdog;
  return json;
}

}  // namespace

Json to_json(const Config& c) {
  Json json;
  json["name"] = c.name;
  json["backend"] = c.backend;
  json["model"] = model_json(c.model);
  json["data"] = data_json(c.data);
  json["optimizer"] = optimizer_json(c.optimizer);
  json["train"] = train_json(c.train);
  json["parallel"]["expert"] = c.parallel.expert;
  json["parallel"]["expert_chunk"] = c.parallel.expert_chunk;
  json["parallel"]["dispatch"] = name_of(kDispatchNames, c.parallel.dispatch);
  json["parallel"]["zero"] = c.parallel.zero;
  json["evaluation"]["every"] = c.evaluation.every;
  json["evaluation"]["tokens"] = c.evaluation.tokens;
  json["checkpoint"]["every"] = c.checkpoint.every;
  json["checkpoint"]["keep"] = c.checkpoint.keep;
  json["checkpoint"]["keep_every"] = c.checkpoint.keep_every;
  json["checkpoint"]["max_failures"] = c.checkpoint.max_failures;
  json["log"]["every"] = c.log.every;
  json["log"]["tensorboard"] = c.log.tensorboard;
  json["log"]["state_hash"] = c.log.state_hash;
  json["log"]["block_load"] = c.log.block_load;
  return json;
}

}  // namespace sffn
