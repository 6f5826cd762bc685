#include "train/plan.h"

#include "model/flops.h"
#include "train/device_peaks.h"
#include "train/engine.h"
#include "train/memory_check.h"
#include "train/spread_layers.h"

#include <utility>

namespace sffn {
namespace {

Json parameters_json(const Config& config) {
  const ParameterCount count = count_parameters(config.model);
  Json json;
  json["total"] = count.total;
  json["active"] = count.active;
  json["sparse"] = count.sparse;
  Json layers = Json::array();
  for (const int64_t parameters : count.by_layer) layers.push_back(parameters);
  json["by_layer"] = layers;
  return json;
}

Json flops_json(const Config& config, const Measurement& measured, int64_t tokens_of_rank) {
  const FlopCount count = count_flops(config.model);
  Json json;
  json["forward_per_token"] = count.forward_per_token;
  json["train_per_token"] = count.train_per_token;
  json["executed_train_per_token"] = measured.flops / static_cast<double>(tokens_of_rank);
  json["paper_zflops"] = paper_zflops(config);
  return json;
}

Json memory_json(const Measurement& measured, const DevicePeaks* peaks) {
  Json rank;
  for (const auto& [name, bytes] : measured.memory) rank[name] = bytes;
  rank["total"] = measured.memory_bytes();
  Json json;
  json["per_rank"] = rank;
  json["device"] = peaks != nullptr ? Json(static_cast<int64_t>(peaks->memory)) : Json();
  return json;
}

// What this rank sends in a step for the tokens of each layer whose blocks are spread, by each way to get them there.
Json dispatch_of_layers(const Config& config, int64_t tokens, bool on_gpus) {
  Json layers = Json::object();
  for (const SpreadLayer& layer : spread_layers(config, on_gpus)) {
    const DispatchVolume forward = layer.volume(layer.trips.forward), backward = layer.volume(layer.trips.backward);
    const auto in_step = [&](double DispatchVolume::*way) {
      return static_cast<double>(tokens) * (static_cast<double>(layer.forwards) * forward.*way +
                                            static_cast<double>(layer.trips.passes) * backward.*way);
    };
    Json json;
    json["blocks"] = layer.blocks;
    json["dispatch"] = layer.way == Dispatch::kGather ? "gather" : "all_to_all";
    json["gather_bytes_per_step"] = in_step(&DispatchVolume::gather);
    json["all_to_all_bytes_per_step"] = in_step(&DispatchVolume::all_to_all);
    json["naive_bytes_per_step"] = in_step(&DispatchVolume::naive);
    layers[cat(layer.layer)] = std::move(json);
  }
  return layers;
}

Json communication_json(const Measurement& measured) {
  Json json;
  json["gradient_bytes_per_step"] = (measured.traffic.all_to_all + measured.replica_traffic.all_to_all).bytes;
  json["weight_bytes_per_step"] = (measured.traffic.gathers() + measured.replica_traffic.gathers()).bytes;
  json["expert_bytes_per_step"] = measured.expert_traffic.total_bytes();
  json["total_bytes_per_step"] = measured.total_bytes();
  return json;
}

// Compute at the matmul peak, the optimizer's bytes at the memory peak, communication at the link's, nothing
// overlapped.
Json step_json(const Config& config, const Measurement& measured, const DevicePeaks* peaks) {
  Json json;
  if (peaks == nullptr) {
    for (const char* part : {"compute", "optimizer", "communication", "total"}) json[part] = Json();
    return json;
  }
  const bool bf16 = config.train.precision == Precision::kBf16;
  const double compute = measured.flops / peaks->flops(bf16);
  const double optimizer = static_cast<double>(measured.updated) * update_bytes(config) / peaks->bandwidth;
  const double communication = measured.total_bytes() / peaks->link;
  json["compute"] = 1e3 * compute;
  json["optimizer"] = 1e3 * optimizer;
  json["communication"] = 1e3 * communication;
  json["total"] = 1e3 * (compute + optimizer + communication);
  return json;
}

}  // namespace

double update_bytes(const Config& config) { return config.train.precision == Precision::kBf16 ? 30 : 28; }

void require_vocabulary(const Config& config) {
  if (config.model.vocab_size > 0) return;
  throw UsageError("model.vocab_size", "is from_data, and no data is at hand; use --set model.vocab_size=N");
}

Json plan_run(const Config& run, int ranks, const std::string& device) {
  const DevicePeaks* peaks = require_device(device);
  const Config config = peaks != nullptr ? as_on_gpu(run) : run;
  require_vocabulary(config);
  const Measurement measured = Engine::measure(config, 0, ranks);
  const LeafRange leaves = split_leaves(config.micro_batches_per_step(), ranks)[0];
  const int64_t tokens = (leaves.last - leaves.first) * config.train.micro_batch * config.model.context;

  Json plan;
  plan["name"] = config.name;
  plan["ranks"] = int64_t{ranks};
  plan["device"] = device;
  plan["parameters"] = parameters_json(config);
  plan["flops"] = flops_json(config, measured, tokens);
  plan["memory"] = memory_json(measured, peaks);
  plan["communication"] = communication_json(measured);
  plan["dispatch"] = dispatch_of_layers(config, tokens, peaks != nullptr);
  plan["step_ms"] = step_json(config, measured, peaks);
  return plan;
}

}  // namespace sffn
