// Runs of kCount elements as floats, moved 16 bytes at a time at most. Addresses are aligned to kCount elements, or to
// 16 bytes where that is less.
#pragma once
#include "kernels/cuda/element.cuh"

namespace sffn::cuda {

template <int kCount, class T>
inline constexpr int kPackStep = kCount < kPackCount<T> ? kCount : kPackCount<T>;

template <int kCount, class T>
__device__ __forceinline__ void load_floats(float (&to)[kCount], const T* from) {
  constexpr int kStep = kPackStep<kCount, T>;
  for (int i = 0; i < kCount; i += kStep) {
    const Pack<T, kStep> pack = *reinterpret_cast<const Pack<T, kStep>*>(from + i);
    for (int j = 0; j < kStep; ++j) to[i + j] = to_float(pack.at[j]);
  }
}

template <int kCount, class T>
__device__ __forceinline__ void store_floats(T* to, const float (&from)[kCount]) {
  constexpr int kStep = kPackStep<kCount, T>;
  for (int i = 0; i < kCount; i += kStep) {
    Pack<T, kStep> pack;
    for (int j = 0; j < kStep; ++j) store(pack.at[j], from[i + j]);
    *reinterpret_cast<Pack<T, kStep>*>(to + i) = pack;
  }
}

// Whether rows of `width` elements can be moved in packs of `count`.
template <class... Pointers>
bool packs_fit(int64_t width, int count, const Pointers*... data) {
  return width % count == 0 && (is_aligned(data) && ...);
}

}  // namespace sffn::cuda
