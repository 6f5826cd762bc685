#include "train/memory_check.h"

#include "kernels/cuda/device.h"

#include <algorithm>
#include <iomanip>
#include <optional>
#include <vector>

namespace sffn {
namespace {

// Nothing where the system decides about memory as it is touched.
std::optional<size_t> free_bytes([[maybe_unused]] Device device) {
#if SFFN_HAS_CUDA
  if (device.kind == Device::Kind::kCuda) return free_gpu_bytes(device.index);
#endif
  return std::nullopt;
}

std::string in_gib(size_t bytes) {
  return cat(bytes, " bytes (", std::fixed, std::setprecision(2), static_cast<double>(bytes) / (1 << 30), " GiB)");
}

int64_t smallest_factor(int64_t n) {
  for (int64_t factor = 2; factor * factor <= n; ++factor) {
    if (n % factor == 0) return factor;
  }
  return n;
}

// A change of the run, in the words of the configuration.
struct Change {
  std::string what;
  Config config;
  int ranks;
};

std::vector<Change> changes_of(const Config& config, int ranks) {
  std::vector<Change> changes;
  const auto add = [&](const std::string& what, auto&& change) {
    changes.push_back({what, config, ranks});
    change(changes.back());
  };
  const TrainConfig& train = config.train;
  if (train.recompute != Recompute::kBlock) {
    add("train.recompute \"block\"", [](Change& c) { c.config.train.recompute = Recompute::kBlock; });
  }
  if (train.micro_batch > 1) {
    const int64_t fewer = train.micro_batch / smallest_factor(train.micro_batch);
    add(cat("train.micro_batch ", fewer), [&](Change& c) { c.config.train.micro_batch = fewer; });
  }
  if (config.parallel.zero == 0 && ranks > 1) {
    add("parallel.zero 1", [](Change& c) { c.config.parallel.zero = 1; });
  }
  if (config.parallel.zero == 1) {
    add(cat(2 * ranks, " ranks"), [](Change& c) { c.ranks *= 2; });
  }
  if (train.precision == Precision::kFp32) {
    add("train.precision \"bf16\"", [](Change& c) { c.config.train.precision = Precision::kBf16; });
  }
  return changes;
}

std::string largest_part(const Measurement& measured) {
  const auto largest = std::max_element(measured.memory.begin(), measured.memory.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
  return cat(100 * largest->second / std::max<size_t>(1, measured.memory_bytes()), "% of them ", largest->first);
}

std::string training_advice(const Config& config, const Measurement& measured, int rank, int ranks, size_t free) {
  size_t least = measured.memory_bytes();
  std::string best;
  for (const Change& change : changes_of(config, ranks)) {
    try {
      const size_t needed = Engine::measure(change.config, rank, change.ranks).memory_bytes();
      if (needed >= least) continue;
      least = needed;
      best = change.what;
    } catch (const UsageError&) {  // does not go with the rest of the configuration: no advice
    }
  }
  const std::string part = largest_part(measured);
  if (best.empty()) return part + "; a smaller model.context or model needs less";
  return cat(part, "; ", best, " saves most: ", in_gib(least), least > free ? ", still too many" : "");
}

}  // namespace

void require_memory(Device device, size_t needed, const std::function<std::string()>& advice) {
  const std::optional<size_t> free = free_bytes(device);
  if (!free || *free >= needed) return;
  throw UsageError("memory", cat(device.str(), " has ", in_gib(*free), " free, and ", in_gib(needed),
                                 " are needed (`sffn plan` lists them), ", advice(),
                                 "; or use \"backend\": \"cpu\" (--backend cpu)"));
}

Config as_on_gpu(Config config) {
  config.model.on_gpu = true;
  config.train.deterministic = false;  // one buffer of gradients: Engine
  if (config.parallel.dispatch == Dispatch::kAuto) config.parallel.dispatch = Dispatch::kGather;
  return config;
}

Measurement measure_for(DeviceRuntime& runtime, const Config& config, int rank, int ranks) {
  const Config carried_out = runtime.is_asynchronous() ? as_on_gpu(config) : config;
  const Measurement measured = Engine::measure(carried_out, rank, ranks);
  const size_t free = free_bytes(runtime.device()).value_or(0);
  require_memory(runtime.device(), measured.memory_bytes(),
                 [&] { return training_advice(carried_out, measured, rank, ranks, free); });
  return measured;
}

}  // namespace sffn
