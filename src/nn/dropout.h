#pragma once
#include "kernels/types.h"
#include "nn/context.h"

#include <cstdint>

namespace sffn {

// Draws of one site in this pass. `per_sequence` is the number of elements of one sequence, so that counters are those
// of the step's global batch.
inline Draws site_draws(const Context& ctx, RandomSite site, int64_t layer, int64_t per_sequence) {
  const RandomKey key = random_key(ctx.seed, site, layer);
  if (ctx.clock != nullptr) {
    return {.key = key, .first_index = 0, .clock = ctx.clock, .per_sequence = per_sequence};
  }
  return {.key = key_at_step(key, ctx.step), .first_index = ctx.first_sequence * per_sequence};
}
// Probability 0 outside training.
inline Dropout site_dropout(const Context& ctx, double probability, RandomSite site, int64_t layer,
                            int64_t per_sequence) {
  return {ctx.training ? probability : 0.0, site_draws(ctx, site, layer, per_sequence)};
}

// The gradient before a branch's dropout from dh, the gradient after it: dh itself where nothing is dropped, else a
// copy in ctx.scratch that the mask was applied to.
Tensor dropout_backward(Context&, const Tensor& dh, const Dropout&);

}  // namespace sffn
