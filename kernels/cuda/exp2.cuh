// Powers by the one instruction that a GPU has for them.
#pragma once
#include <cuda_runtime.h>

namespace sffn::cuda {

// 2^x to a relative error of 2⁻²²; what is below the normal numbers is 0.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
// 1/x to a relative error of 2⁻²³; what is below the normal numbers is 0.
__device__ __forceinline__ float reciprocal_fast(float x) {
#ifdef __CUDACC__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}
// e^x, with x·log2(e) rounded: a relative error of 2⁻²² + |x|·2⁻²³.
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * 0x1.715476p+0f); }

}  // namespace sffn::cuda
