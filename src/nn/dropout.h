#pragma once
#include "kernels/types.h"
#include "nn/context.h"

#include <cstdint>

namespace sffn {

// Dropout of one site in this pass: probability 0 outside training. `per_sequence` is the number of elements of one
// sequence, so that counters are those of the step's global batch.
inline Dropout site_dropout(const Context& ctx, double probability, RandomSite site, int64_t layer,
                            int64_t per_sequence) {
  return {.probability = ctx.training ? probability : 0.0,
          .key = random_key(ctx.seed, site, layer, ctx.step),
          .first_index = ctx.first_sequence * per_sequence};
}

// The gradient before a branch's dropout from dh, the gradient after it: dh itself where nothing is dropped, else a
// copy in ctx.scratch that the mask was applied to.
Tensor dropout_backward(Context&, const Tensor& dh, const Dropout&);

}  // namespace sffn
