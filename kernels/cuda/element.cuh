// Elements of activations: stored as float or bfloat16, computed in float.
#pragma once
#include "core/dtype.h"
#include "core/error.h"
#include "core/tensor.h"

#include <cuda_runtime.h>

namespace sffn::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) { return static_cast<float>(x); }
__device__ __forceinline__ void store(float& to, float x) { to = x; }
__device__ __forceinline__ void store(bfloat16& to, float x) {
#ifdef __CUDACC__
  asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(to.bits) : "f"(x));
#else
  to = x;
#endif
}
__device__ __forceinline__ void store(double& to, float x) { to = x; }

// f(T{}) for an activation's dtype: float or bfloat16.
template <class F>
void with_activation_type(const char* op, const Tensor& x, F&& f) {
  switch (x.dtype()) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(bfloat16{});
    case DType::kI32:
    case DType::kF64:
    case DType::kC128:
      throw RunError(op, cat("is given ", name_of(x.dtype()), "; on a GPU activations are f32 or bf16"));
  }
}

// Consecutive elements that one thread loads and stores at once: 16 bytes.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};
template <class T>
inline constexpr int kPackCount = 16 / sizeof(T);

inline bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace sffn::cuda
