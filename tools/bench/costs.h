#pragma once
#include <functional>
#include <string>

namespace sffn {

// Measures the two forms of the block product, forward and backward, for blocks of several sizes in f32 and bf16, and
// returns the table that plan_experts() reads (src/ffn/expert_costs.inc). A ratio is the time of one active
// multiply-add of the grouped form over that of one multiply-add of the masked form: 4096 tokens of width 256, 1024
// active cells of 16384, choices spread evenly. `progress` gets a line for each entry.
std::string measure_expert_costs(const std::function<void(const std::string&)>& progress);

}  // namespace sffn
