#include "tools/bench/costs.h"

#include "tools/bench/expert_layer.h"
#include "tools/bench/harness.h"

#include <cstdio>

namespace sffn {
namespace {

constexpr int64_t kTokens = 4096, kWidth = 256, kActive = 1024, kExpansion = 16;
constexpr int64_t kBlockSizes[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

double seconds_of(Harness& harness, ExpertLayer& layer, ExpertForm form) {
  layer.use(form);
  return harness.median_seconds([&](Workspace&) -> Call {
    return [&] {
      layer.forward();
      layer.backward();
    };
  });
}

}  // namespace

std::string measure_expert_costs(const std::function<void(const std::string&)>& progress) {
  Harness harness(cpu_runtime(), {.warm_ups = 1, .repeats = 5, .seconds = 0.5});
  std::string table =
      "// Written by `sffn bench ops --write-costs`: dtype, block size, time of a cell of the grouped form over that "
      "of a\n"
      "// cell of the masked form, forward and backward.\n";
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t block_size : kBlockSizes) {
      ExpertLayer layer(harness.stream(),
                        {.tokens = kTokens,
                         .width = kWidth,
                         .cells = kActive * kExpansion,
                         .active = kActive,
                         .block_size = block_size,
                         .bias = true},
                        dtype);
      const double grouped = seconds_of(harness, layer, ExpertForm::kGrouped);
      const double masked = seconds_of(harness, layer, ExpertForm::kMasked);
      const double ratio = grouped / masked * static_cast<double>(kExpansion);
      char line[160];
      std::snprintf(line, sizeof line, "{DType::%s, %ld, %.2f},\n", dtype == DType::kF32 ? "kF32" : "kBF16",
                    static_cast<long>(block_size), ratio);
      table += line;
      std::snprintf(line, sizeof line, "%-4s g = %-5ld grouped %7.1f ms, masked %7.1f ms; ratio a cell %.2f",
                    dtype == DType::kF32 ? "f32" : "bf16", static_cast<long>(block_size), grouped * 1e3, masked * 1e3,
                    ratio);
      progress(line);
    }
  }
  return table;
}

}  // namespace sffn
