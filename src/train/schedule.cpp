#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sffn {

double learning_rate(const OptimizerConfig& config, int64_t steps, int64_t step) {
  const ScheduleConfig& schedule = config.schedule;
  const double peak = config.lr, floor = schedule.final_lr;
  const int64_t warmup = schedule.warmup_steps;
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);

  // Share of a decay of `length` updates that ends at the last one: 0 before it starts, 1 at its end.
  const auto progress = [&](int64_t length) {
    if (length <= 0) return 1.0;
    return std::clamp(static_cast<double>(step - (steps - length)) / static_cast<double>(length), 0.0, 1.0);
  };
  switch (schedule.type) {
    case ScheduleType::kLinear:
      return peak + (floor - peak) * progress(steps - warmup);
    case ScheduleType::kCosine:
      return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress(steps - warmup)));
    case ScheduleType::kWsd:
      return schedule.decay_steps == 0 ? peak : peak + (floor - peak) * progress(schedule.decay_steps);
    case ScheduleType::kInverseSqrt:
      return peak * std::sqrt(static_cast<double>(std::max<int64_t>(warmup, 1)) / static_cast<double>(step));
    case ScheduleType::kConstant:
      return peak;
  }
  throw RunError("learning_rate", "not a schedule");
}

}  // namespace sffn
