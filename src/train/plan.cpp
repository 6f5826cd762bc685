#include "train/plan.h"

#include "model/flops.h"
#include "train/engine.h"

#include <cstdio>
#include <optional>

namespace sffn {
namespace {

// Per second. bf16: dense tensor-core peak; fp32: without TF32; memory: device bandwidth; link: between the ranks of a
// node, one direction. Sources: vendors' data sheets.
struct Peaks {
  const char* device;
  double bf16_flops, fp32_flops, memory_bytes, link_bytes;
};
constexpr Peaks kPeaks[] = {
    {"h200", 989e12, 67e12, 4.8e12, 450e9},
    {"h100", 989e12, 67e12, 3.35e12, 450e9},
    {"a100", 312e12, 19.5e12, 2.0e12, 300e9},
};

std::optional<Peaks> peaks_of(const std::string& device) {
  for (const Peaks& peaks : kPeaks) {
    if (device == peaks.device) return peaks;
  }
  if (device == "cpu") return std::nullopt;
  throw UsageError("--device", cat("\"", device, "\" is not known; known: h200, h100, a100, cpu"));
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

Json memory_json(const Measurement& measured) {
  Json rank;
  int64_t total = 0;
  for (const auto& [name, bytes] : measured.memory) {
    rank[name] = bytes;
    total += static_cast<int64_t>(bytes);
  }
  rank["total"] = total;
  Json json;
  json["per_rank"] = rank;
  return json;
}

Json communication_json(const Traffic& traffic) {
  Json json;
  json["gradient_bytes_per_step"] = traffic.all_to_all;
  json["weight_bytes_per_step"] = traffic.all_gather;
  json["total_bytes_per_step"] = traffic.total();
  return json;
}

// Compute at the matmul peak, the optimizer's bytes at the memory peak, communication at the link's, nothing overlapped.
Json step_json(const Config& config, const Measurement& measured, const std::optional<Peaks>& peaks, int ranks) {
  Json json;
  const auto put = [&](const char* name, double seconds) { json[name] = peaks ? Json(seconds * 1e3) : Json(); };
  const bool bf16 = config.train.precision == Precision::kBf16;
  const Peaks p = peaks.value_or(Peaks{"", 1, 1, 1, 1});
  const double compute =
      (measured.work.matmul_flops + measured.work.attention_flops) / (bf16 ? p.bf16_flops : p.fp32_flops);
  // Gradient, weight, both moments read; weight and moments written; in bf16 the rounded weight as well.
  const double elements = static_cast<double>(count_parameters(config.model).total) / (config.parallel.zero ? ranks : 1);
  const double optimizer = elements * (bf16 ? 30 : 28) / p.memory_bytes;
  const double communication = measured.traffic.total() / p.link_bytes;
  put("compute", compute);
  put("optimizer", optimizer);
  put("communication", communication);
  put("total", compute + optimizer + communication);
  return json;
}

}  // namespace

Json plan_run(const Config& config, int ranks, const std::string& device) {
  const std::optional<Peaks> peaks = peaks_of(device);
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
  plan["memory"] = memory_json(measured);
  plan["communication"] = communication_json(measured.traffic);
  plan["step_ms"] = step_json(config, measured, peaks, ranks);
  return plan;
}

std::string plan_table(const Json& plan) {
  std::string table;
  const auto line = [&](const std::string& name, const std::string& value) {
    char text[160];
    std::snprintf(text, sizeof text, "  %-28s %24s\n", name.c_str(), value.c_str());
    table += text;
  };
  const auto number = [](const Json& json, const char* unit) -> std::string {
    if (json.is_null()) return "unknown";
    char text[64];
    const double value = json.as_double();
    if (json.is_int()) std::snprintf(text, sizeof text, "%ld%s", json.as_int(), unit);
    else std::snprintf(text, sizeof text, "%.6g%s", value, unit);
    return text;
  };
  const auto section = [&](const std::string& title, const Json& object, const char* unit) {
    table += title + "\n";
    for (const Json::Member& member : object.as_object()) {
      if (!member.value.is_array()) line(member.key, number(member.value, unit));
    }
  };
  table += cat(plan.find("name")->as_string(), " on ", plan.find("ranks")->as_int(), " ranks of ",
               plan.find("device")->as_string(), "\n");
  section("parameters", *plan.find("parameters"), "");
  section("FLOPs", *plan.find("flops"), "");
  section("memory per rank, bytes", *plan.find("memory")->find("per_rank"), "");
  section("communication per rank", *plan.find("communication"), "");
  section("step at the roofline", *plan.find("step_ms"), " ms");
  return table;
}

}  // namespace sffn
