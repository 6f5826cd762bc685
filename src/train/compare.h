// Two devices in lockstep: the same weights, tokens and random numbers, step after step.
#pragma once
#include "config/config.h"
#include "core/runtime.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sffn {

// ‖a - b‖ / ‖a‖ over the elements of one tensor; the absolute norm where ‖a‖ is 0. Of blocks, the fraction of a's
// choices that b did not make for the same token.
struct ComparedTensor {
  std::string name;  // hidden.I, layers.I.ffn.blocks, logits, loss, grad.NAME, NAME (after the update)
  double error = 0, tolerance = 0;
  bool differs() const { return !(error <= tolerance); }  // NaN differs
};

struct ComparedStep {
  int64_t step = 0;
  std::vector<ComparedTensor> tensors;  // in the order in which a step makes them
};

// Runs `steps` training steps of random tokens on both devices, from the initial weights of config.train.seed. Before
// each update the second takes the first one's gradients (AdamW makes a whole step of one that is 0 but for rounding,
// as that of a key's bias), and after it the weights, so that an error does not grow. Tolerances: 1e-4 in fp32, 5e-2 in
// bf16. Two devices round differently, and choose differently where two scores are all but equal: a fraction f of other
// choices moves a sum over tokens by about √(2f) of its norm, and what a step makes after them is allowed that as well.
// `report` is called after each step; false ends the comparison.
void compare_devices(const Config& config, DeviceRuntime& first, DeviceRuntime& second, int64_t steps,
                     const std::function<bool(const ComparedStep&)>& report);

}  // namespace sffn
