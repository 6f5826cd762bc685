#include "train/plan.h"

#include "ffn/registry.h"
#include "model/flops.h"
#include "train/device_peaks.h"
#include "train/engine.h"

#include <cmath>
#include <cstdio>

namespace sffn {
namespace {

// nullptr for the CPU.
const DevicePeaks* peaks_of(const std::string& device) {
  const DevicePeaks* peaks = find_device(device);
  if (peaks == nullptr && device != "cpu") {
    throw UsageError("--device", cat("\"", device, "\" is not known; known: ", known_devices(), ", cpu"));
  }
  return peaks;
}

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
  json["executed_train_per_token"] =
      (measured.work.matmul_flops + measured.work.attention_flops) / static_cast<double>(tokens_of_rank);
  json["paper_zflops"] = paper_zflops(config);
  return json;
}

Json memory_json(const Measurement& measured, const DevicePeaks* peaks) {
  Json rank;
  int64_t total = 0;
  for (const auto& [name, bytes] : measured.memory) {
    rank[name] = bytes;
    total += static_cast<int64_t>(bytes);
  }
  rank["total"] = total;
  Json json;
  json["per_rank"] = rank;
  json["device"] = peaks != nullptr ? Json(static_cast<int64_t>(peaks->memory)) : Json();
  return json;
}

// What this rank sends in a step for one layer whose blocks are spread, by each way to get tokens there: x there and y
// back; x and dy there and dx back.
Json dispatch_json(const Config& config, const FfnOptions& options, int64_t tokens, bool is_cpu) {
  const BlockShape& shape = *options.block_shape();
  const int64_t d = config.model.d_model, b = shape.per_token, R = config.parallel.expert;
  const int64_t W = shape.keys ? shape.key_width(d) : 0;
  const auto bytes = static_cast<int64_t>(size_of(config.dtype()));
  const TokenBytes there = TokenBytes::forward(W, d, b, options.weighs_blocks(), bytes);
  const DispatchVolume forward = dispatch_volume(R, b, there);
  const DispatchVolume backward = dispatch_volume(R, b, TokenBytes::backward(W, d, b, options.weighs_blocks(), bytes));
  const double passes = config.train.recompute == Recompute::kBlock ? 2 : 1;  // forward
  const auto in_step = [&](double DispatchVolume::*way) {
    return static_cast<double>(tokens) * (passes * forward.*way + backward.*way);
  };
  Json json;
  json["blocks"] = shape.blocks();
  json["dispatch"] =
      choose_dispatch(config.parallel.dispatch, forward, !is_cpu) == Dispatch::kGather ? "gather" : "all_to_all";
  json["gather_bytes_per_step"] = in_step(&DispatchVolume::gather);
  json["all_to_all_bytes_per_step"] = in_step(&DispatchVolume::all_to_all);
  json["naive_bytes_per_step"] = in_step(&DispatchVolume::naive);
  return json;
}

// By layer; none where every rank holds all blocks.
Json dispatch_of_layers(const Config& config, int64_t tokens, bool is_cpu) {
  Json layers = Json::object();
  if (config.parallel.expert == 1) return layers;
  const std::vector<FfnEntry> ffn = resolve_ffn(config.model, "config");
  for (size_t layer = 0; layer < ffn.size(); ++layer) {
    const FfnOptions& options = *ffn[layer].options;
    if (options.block_shape() != nullptr) layers[cat(layer)] = dispatch_json(config, options, tokens, is_cpu);
  }
  return layers;
}

Json communication_json(const Measurement& measured) {
  Json json;
  json["gradient_bytes_per_step"] = measured.traffic.all_to_all;
  json["weight_bytes_per_step"] = measured.traffic.all_gather;
  json["expert_bytes_per_step"] = measured.expert_traffic.total();
  json["total_bytes_per_step"] = measured.traffic.total() + measured.expert_traffic.total();
  return json;
}

// Compute at the matmul peak, the optimizer's bytes at the memory peak, communication at the link's, nothing
// overlapped.
Json step_json(const Config& config, const Measurement& measured, const DevicePeaks* peaks, int ranks) {
  Json json;
  if (peaks == nullptr) {
    for (const char* part : {"compute", "optimizer", "communication", "total"}) json[part] = Json();
    return json;
  }
  const bool bf16 = config.train.precision == Precision::kBf16;
  const double compute = (measured.work.matmul_flops + measured.work.attention_flops) / peaks->flops(bf16);
  // Gradient, weight, both moments read; weight and moments written; in bf16 the rounded weight as well.
  const double elements =
      static_cast<double>(count_parameters(config.model).total) / (config.parallel.zero ? ranks : 1);
  const double optimizer = elements * (bf16 ? 30 : 28) / peaks->bandwidth;
  const double communication = (measured.traffic.total() + measured.expert_traffic.total()) / peaks->link;
  json["compute"] = 1e3 * compute;
  json["optimizer"] = 1e3 * optimizer;
  json["communication"] = 1e3 * communication;
  json["total"] = 1e3 * (compute + optimizer + communication);
  return json;
}

}  // namespace

Json plan_run(const Config& config, int ranks, const std::string& device) {
  const DevicePeaks* peaks = peaks_of(device);
  if (config.model.vocab_size == 0) {
    throw UsageError("model.vocab_size", "is from_data, and no data is at hand; use --set model.vocab_size=N");
  }
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
  plan["dispatch"] = dispatch_of_layers(config, tokens, peaks == nullptr);
  plan["step_ms"] = step_json(config, measured, peaks, ranks);
  return plan;
}

namespace {

enum class Unit { kCount, kFlops, kBytes, kMilliseconds };

// "1.99 GiB" of 1991614464 bytes, "266 MFLOPs" of 2.66e8: three digits, prefixes of 1024 for bytes, else of 1000.
std::string with_unit(double value, Unit unit) {
  const double base = unit == Unit::kBytes ? 1024 : 1000;
  size_t prefix = 0;
  while (std::abs(value) >= base && prefix < 6) value /= base, ++prefix;
  const char* const decimal[] = {"", "k", "M", "G", "T", "P", "E"};
  const char* const binary[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  const char* const name = unit == Unit::kBytes ? "B" : unit == Unit::kFlops ? "FLOPs" : "";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f %s%s",
                prefix == 0 || value >= 99.95 ? 0
                : value >= 9.995              ? 1
                                              : 2,
                value, (unit == Unit::kBytes ? binary : decimal)[prefix], name);
  return text;
}

std::string table_row(const Json::Member& member, Unit unit) {
  const Json& value = member.value;
  char text[160];
  if (value.is_null()) {
    std::snprintf(text, sizeof text, "  %-26s %12s\n", member.key.c_str(), "unknown");
  } else if (unit == Unit::kMilliseconds) {
    std::snprintf(text, sizeof text, "  %-26s %12.3f ms\n", member.key.c_str(), value.as_double());
  } else if (member.key == "paper_zflops") {
    std::snprintf(text, sizeof text, "  %-26s %12.4g ZFLOPs, the whole run\n", member.key.c_str(), value.as_double());
  } else {
    std::snprintf(text, sizeof text, "  %-26s %14s %20.0f\n", member.key.c_str(),
                  with_unit(value.as_double(), unit).c_str(), value.as_double());
  }
  return text;
}

}  // namespace

std::string plan_table(const Json& plan) {
  const int64_t ranks = plan.find("ranks")->as_int();
  std::string table = cat(plan.find("name")->as_string(), " on ", ranks, ranks == 1 ? " rank of " : " ranks of ",
                          plan.find("device")->as_string(), "\n");
  const auto section = [&](const char* title, const Json& object, Unit unit) {
    table += cat("\n", title, "\n");
    for (const Json::Member& member : object.as_object()) {
      if (!member.value.is_array()) table += table_row(member, unit);
    }
  };
  section("parameters", *plan.find("parameters"), Unit::kCount);
  section("FLOPs", *plan.find("flops"), Unit::kFlops);
  const Json& memory = *plan.find("memory");
  const std::string most = memory.find("device")->is_null()
                               ? ""
                               : cat(" (of ", with_unit(memory.find("device")->as_double(), Unit::kBytes), ")");
  section(cat("memory of rank 0", most).c_str(), *memory.find("per_rank"), Unit::kBytes);
  section("sent by rank 0", *plan.find("communication"), Unit::kBytes);
  for (const Json::Member& layer : plan.find("dispatch")->as_object()) {
    const std::string title =
        cat("layer ", layer.key, ": ", layer.value.find("blocks")->as_int(), " blocks over the expert ranks by ",
            layer.value.find("dispatch")->as_string(), "; rank 0 would send by");
    Json ways;
    for (const char* way : {"gather", "all_to_all", "naive"}) {
      ways[way] = *layer.value.find(cat(way, "_bytes_per_step"));
    }
    section(title.c_str(), ways, Unit::kBytes);
  }
  section("time of a step at the device's peaks", *plan.find("step_ms"), Unit::kMilliseconds);
  return table;
}

}  // namespace sffn
