// Kernels of one warpgroup around kernels/cuda/wgmma.cuh. Pointers are to device memory.
#pragma once
#include "core/dtype.h"

namespace sffn::test {

// c [64,n] = a [64,64]·b [64,n], n 64, 128 or 256; b lies in shared memory as [n][64], or across: as [64][n]; where
// both lie across, a does as [depth][row].
void run_warpgroup_products(float* c, const bfloat16* a, const bfloat16* b, int n, bool left_across, bool across);
// The same for n 128 or 256, a in registers, the halves of c as two sums.
void run_held_products(float* c, const bfloat16* a, const bfloat16* b, int n, bool across);

// y [16,64]: the bits of element e are e, turned 8 rows at a time; through memory `shift` elements from where it should
// be.
void run_turned_rows(bfloat16* y, int shift);

// One step that is right, or wrong in one way; c [64,64] = a [64,64]·b [64,64], b as [n][64].
enum class Fault : uint8_t {
  kNone,
  kNotWaitedFor,   // the sums are read while their products are under way
  kOverwritten,    // a is cleared before its products were waited for
  kNotPublished,   // the copies of a and b were not published
  kNotBegun,       // the sums were written and the products not begun after that
  kOtherProducts,  // one warp asks for another part of b
  kDiverged,       // half a warp asks
  kStaticMemory,   // a is not in dynamic shared memory
  kBeyondEnd,      // the rows of a reach beyond the end of shared memory
};
void run_warpgroup_step(float* c, const bfloat16* a, const bfloat16* b, Fault fault);

}  // namespace sffn::test
