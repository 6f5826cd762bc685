// The dominant component of every block of keys: out[i] = v·σ₁/√G of the uncentred block i.
#pragma once
#include "core/dtype.h"
#include "core/stream.h"

#include <cstdint>

namespace sffn::cuda {

// out [B,D], keys [B·G,D]
void first_components(Stream&, float* out, const float* keys, int64_t B, int64_t G, int64_t D);
void first_components(Stream&, float* out, const bfloat16* keys, int64_t B, int64_t G, int64_t D);

}  // namespace sffn::cuda
