#include "tools/bench/step.h"

#include "comm/agree.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"
#include "model/flops.h"
#include "tools/bench/profile.h"
#include "train/device_peaks.h"
#include "train/engine.h"
#include "train/memory_check.h"
#include "train/network.h"
#include "train/plan.h"
#include "train/random_batch.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace sffn {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

// On a GPU: its matrix products, and which of them cuBLASLt fuses with what follows.
Json products_of(Stream& stream) {
  Json lines = Json::array();
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) {
      for (const std::string& line : cuda::describe_products(stream)) lines.push_back(line);
    }
  }
  return lines;
}

}  // namespace

Json bench_step(Config config, Communicator& ranks, DeviceRuntime& runtime, const StepBench& bench) {
  if (bench.profile && runtime.device().kind != Device::Kind::kCuda) {
    throw UsageError("--profile", "times the kernels of a GPU; use --backend cuda");
  }
  config.train.tokens_per_step = config.train.micro_batch * config.model.context * ranks.size();
  Measurement plan;
  together(ranks, [&] { plan = measure_for(runtime, config, ranks.rank(), ranks.size()); });
  RankGroups groups(ranks, config.parallel.expert);
  Engine engine(config, parallel_of(ranks, groups), runtime, plan.arenas);
  engine.initialise([&] { return random_token_counts(config); });

  std::vector<double> step_ms, forward_backward_ms, optimizer_ms, communication_ms;
  const int64_t last = bench.warm_up + bench.steps;
  int64_t started = 0;
  auto finished_at = std::chrono::steady_clock::now();
  for (int64_t step = 1; step <= last; ++step) {
    while (started < std::min(last, step - 1 + engine.depth())) {  // the device never waits for the host
      ++started;
      const auto batch_of = [&](int64_t first, int64_t count) { return random_batch(config, started, first, count); };
      engine.start(started, batch_of, config.optimizer.lr, {}, [](std::string_view) {});
    }
    const StepNumbers numbers = engine.finish();
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - std::exchange(finished_at, now)).count();
    if (step <= bench.warm_up) continue;
    step_ms.push_back(ms);
    forward_backward_ms.push_back(numbers.forward_backward_ms);
    optimizer_ms.push_back(numbers.optimizer_ms);
    communication_ms.push_back(numbers.communication_ms);
  }

  for (double& ms : step_ms) ms = ranks.max_value(ms);
  std::vector<double> least_communication_ms;
  for (const double ms : communication_ms) least_communication_ms.push_back(ranks.min_value(ms));
  const double tokens_per_second = static_cast<double>(config.train.tokens_per_step) / median(step_ms) * 1e3;
  Json report;
  const DevicePeaks* peaks = find_card(runtime.name());
  const double flops_per_second = count_flops(config.model).train_per_token * tokens_per_second;
  report["name"] = config.name;
  report["device"] = runtime.name();
  report["ranks"] = int64_t{ranks.size()};
  report["tokens_per_second"] = tokens_per_second;
  report["step_ms"] = median(step_ms);
  report["forward_backward_ms"] = median(forward_backward_ms);
  report["optimizer_ms"] = median(optimizer_ms);
  report["exposed_communication_ms"] = median(communication_ms);
  report["least_communication_ms"] = median(least_communication_ms);
  report["rates"] = to_text(
      Rates{.flops = 1e3 * plan.flops / median(forward_backward_ms),
            .bandwidth = 1e3 * static_cast<double>(plan.updated) * update_bytes(config) / median(optimizer_ms)});
  report["memory_bytes"] = engine.memory_bytes();
  report["products"] = products_of(engine.stream());
  report["model_tflops"] = 1e-12 * flops_per_second;
  const bool bf16 = config.train.precision == Precision::kBf16;
  report["mfu"] = peaks != nullptr ? Json(flops_per_second / (peaks->flops(bf16) * ranks.size())) : Json();
  if (bench.profile) {
    const auto batch_of = [&](int64_t first, int64_t count) { return random_batch(config, last + 1, first, count); };
    engine.stream().start_profile();
    engine.step(last + 1, batch_of, config.optimizer.lr, [](std::string_view) {});
    const std::vector<KernelTime> times = engine.stream().take_profile();
    double seconds = 0;
    for (const KernelTime& time : times) seconds += time.seconds;
    report["profile"] = profile_rows(times, peaks, 1e-3 * median(step_ms));
    report["outside_kernels_ms"] = std::max(0.0, median(step_ms) - 1e3 * seconds);
  }
  return report;
}

}  // namespace sffn
