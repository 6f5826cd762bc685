// Analytic counts of parameters and FLOPs (methods.md section 7). A multiplication and an addition count two.
#pragma once
#include "config/config.h"

#include <cstdint>
#include <vector>

namespace sffn {

struct ParameterCount {
  int64_t total = 0;              // as in checkpoints
  int64_t active = 0;             // total minus what one token does not use in sparse layers
  int64_t sparse = 0;             // of FFN layers that are not dense, norms included
  std::vector<int64_t> by_layer;  // attention, FFN and their norms
};

struct FlopCount {
  double forward_per_token = 0;  // Σ_layers (A' + F_S) + 2dV, causal attention at half
  double train_per_token = 0;    // 3 · forward
  double paper_per_token = 0;  // 4 · Σ_layers (A + F_S) + 6dV: full attention, full recomputation (arXiv 2104.04473)
};

ParameterCount count_parameters(const ModelConfig&);
FlopCount count_flops(const ModelConfig&);
// FLOPs of the whole run in units of 10²¹, after the paper's count: T = steps · tokens_per_step.
double paper_zflops(const Config&);

}  // namespace sffn
