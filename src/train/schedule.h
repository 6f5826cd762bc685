#pragma once
#include "config/config.h"

#include <cstdint>

namespace sffn {

// The learning rate of update `step` = 1 … steps, with w = warmup_steps, peak = lr and floor = final_lr:
//   step <= w      peak · step / w                                             (every type)
//   linear         from peak at w straight down to floor at `steps`
//   cosine         floor + (peak - floor)·(1 + cos(π·(step - w)/(steps - w)))/2
//   wsd            peak, then straight down to floor over the last `decay_steps` updates
//   inverse_sqrt   peak · √(max(w, 1) / step)
//   constant       peak
double learning_rate(const OptimizerConfig& config, int64_t steps, int64_t step);

}  // namespace sffn
