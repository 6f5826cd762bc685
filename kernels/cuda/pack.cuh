// Consecutive elements that one thread loads and stores at once, as floats. Whether memory allows it is decided once,
// on the host; what a thread computes is the same either way.
#pragma once
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/unroll.cuh"

#include <initializer_list>
#include <type_traits>

namespace sffn::cuda {

// to[i] = from[i] for i < count, else 0. kAligned: `from` is aligned to min(16 bytes, kCount elements).
template <bool kAligned, class T, int kCount>
__device__ __forceinline__ void load_floats(float (&to)[kCount], const T* from, int64_t count) {
  if (kAligned && count >= kCount) {
    constexpr int kPack = kCount < kPackCount<T> ? kCount : kPackCount<T>;
    SFFN_UNROLL for (int first = 0; first < kCount; first += kPack) {
      const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(from + first);
      SFFN_UNROLL for (int i = 0; i < kPack; ++i) to[first + i] = to_float(pack.at[i]);
    }
  } else {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) to[i] = i < count ? to_float(from[i]) : 0.0f;
  }
}

// to[i] = from[i] for i < count
template <bool kAligned, class T, int kCount>
__device__ __forceinline__ void store_floats(T* to, const float (&from)[kCount], int64_t count) {
  if (kAligned && count >= kCount) {
    constexpr int kPack = kCount < kPackCount<T> ? kCount : kPackCount<T>;
    SFFN_UNROLL for (int first = 0; first < kCount; first += kPack) {
      Pack<T, kPack> pack;
      SFFN_UNROLL for (int i = 0; i < kPack; ++i) store(pack.at[i], from[first + i]);
      *reinterpret_cast<Pack<T, kPack>*>(to + first) = pack;
    }
  } else {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
      if (i < count) store(to[i], from[i]);
    }
  }
}

// The same within rows that are whole packs where kAligned: count is then at least kCount, or at most 0.
template <bool kAligned, class T, int kCount>
__device__ __forceinline__ void load_in_row(float (&to)[kCount], const T* from, int64_t count) {
  if (kAligned && count <= 0) {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) to[i] = 0;
  } else {
    load_floats<kAligned>(to, from, kAligned ? kCount : count);
  }
}
template <bool kAligned, class T, int kCount>
__device__ __forceinline__ void store_in_row(T* to, const float (&from)[kCount], int64_t count) {
  if (!kAligned || count > 0) store_floats<kAligned>(to, from, kAligned ? kCount : count);
}
// As they are stored, 16 bytes at most: several can be asked for before the first is used.
template <bool kAligned, int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> stored_in_row(const T* from, int64_t count) {
  Pack<T, kCount> pack{};
  if constexpr (kAligned) {
    if (count > 0) pack = *reinterpret_cast<const Pack<T, kCount>*>(from);
  } else {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
      if (i < count) pack.at[i] = from[i];
    }
  }
  return pack;
}
template <class T, int kCount>
__device__ __forceinline__ void to_floats(float (&to)[kCount], const Pack<T, kCount>& pack) {
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) to[i] = to_float(pack.at[i]);
}

// Of whole runs, aligned as above.
template <class T, int kCount>
__device__ __forceinline__ void load_floats(float (&to)[kCount], const T* from) {
  load_floats<true>(to, from, kCount);
}
template <class T, int kCount>
__device__ __forceinline__ void store_floats(T* to, const float (&from)[kCount]) {
  store_floats<true>(to, from, kCount);
}

// Whether rows of `width` elements of T are whole packs of 16 bytes and all of `data` (null: absent) are aligned.
template <class T>
bool rows_are_packs(int64_t width, std::initializer_list<const void*> data) {
  bool packs = width % kPackCount<T> == 0;
  for (const void* first : data) packs = packs && is_aligned(first);
  return packs;
}

// Whether rows of `width` elements can be moved in packs of `count`.
template <class... Pointers>
bool packs_fit(int64_t width, int count, const Pointers*... data) {
  return width % count == 0 && (is_aligned(data) && ...);
}

// f(std::bool_constant) of a condition known on the host.
template <class F>
void with_constant(bool condition, F&& f) {
  condition ? f(std::true_type{}) : f(std::false_type{});
}

}  // namespace sffn::cuda
