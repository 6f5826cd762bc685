#include "train/schedule.h"

#include "support/catch.h"

using namespace sffn;

namespace {
OptimizerConfig with(ScheduleType type, int64_t warmup, double final_lr = 0, int64_t decay_steps = 0) {
  OptimizerConfig config;
  config.lr = 1.0;
  config.schedule = {type, warmup, decay_steps, final_lr};
  return config;
}
}  // namespace

// Kills: a warm-up that starts at zero or overshoots by one step.
TEST_CASE("every schedule warms up linearly to the peak at the last warm-up step", "[schedule]") {
  for (ScheduleType type : {ScheduleType::kLinear, ScheduleType::kCosine, ScheduleType::kWsd,
                            ScheduleType::kInverseSqrt, ScheduleType::kConstant}) {
    const OptimizerConfig config = with(type, 10, 0, 20);
    CHECK(learning_rate(config, 100, 1) == Approx(0.1));
    CHECK(learning_rate(config, 100, 10) == Approx(1.0));
  }
}

// Kills: ending one step early or late, and ignoring final_lr.
TEST_CASE("decaying schedules reach the final rate at the last step and not before", "[schedule]") {
  for (ScheduleType type : {ScheduleType::kLinear, ScheduleType::kCosine, ScheduleType::kWsd}) {
    const OptimizerConfig config = with(type, 10, 0.1, 20);
    CHECK(learning_rate(config, 100, 100) == Approx(0.1));
    CHECK(learning_rate(config, 100, 99) > 0.1);
  }
  CHECK(learning_rate(with(ScheduleType::kLinear, 0), 100, 50) == Approx(0.5));
  CHECK(learning_rate(with(ScheduleType::kCosine, 0), 100, 50) == Approx(0.5));
  CHECK(learning_rate(with(ScheduleType::kCosine, 0), 100, 25) == Approx(0.8535533905932737));
  CHECK(learning_rate(with(ScheduleType::kInverseSqrt, 4), 100, 16) == Approx(0.5));
  CHECK(learning_rate(with(ScheduleType::kConstant, 4), 100, 77) == 1.0);
}

// Kills: decaying from the start, as `linear` does.
TEST_CASE("wsd holds the peak until decay_steps before the end", "[schedule]") {
  const OptimizerConfig config = with(ScheduleType::kWsd, 0, 0, 20);
  CHECK(learning_rate(config, 100, 80) == 1.0);
  CHECK(learning_rate(config, 100, 90) == Approx(0.5));
}
