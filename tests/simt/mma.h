// Kernels of one warp around kernels/cuda/mma.cuh. Pointers are to device memory.
#pragma once
#include "core/dtype.h"

namespace sffn::test {

// c [16,16] = a [16,32]·b [32,16]. How the factors lie in shared memory: as mma takes them, or transposed.
enum class Layout : uint8_t { kAlongDepth, kAcross, kAcrossByDepths };
void run_products(float* c, const bfloat16* a, const bfloat16* b, Layout layout);

// c [16,16] = bf16(a·b)·choice, choice [16,16]: the results of one product are the left factor of the next.
void run_chained_products(float* c, const bfloat16* a, const bfloat16* b, const bfloat16* choice);

// y [3,4]: a row of x [3,4] read before it was waited for, one of two groups waited for, and zeros that were asked for.
void run_copies(float* y, const float* x);
// As run_copies, from an address that is not aligned.
void run_misaligned_copy(float* y, const float* x);
void run_misaligned_load(float* y);

}  // namespace sffn::test
