// What a launch has to do, declared beside it, so that the time it took can be held against what the device could do.
#pragma once
#include "core/dtype.h"
#include "core/tensor.h"

#include <cstdint>
#include <type_traits>

namespace sffn::cuda {

// The least, whatever caches save or a kernel reads twice. Where it depends on data, the expectation for the sizes
// given.
struct Work {
  double bytes = 0;           // of global memory: each element once for being read, and once for being written
  double flops = 0;           // of inner products; what is done once for an element hides behind its bytes
  bool tensor_cores = false;  // products of bf16: tensor cores could do them, whether the kernel uses them or not
};

template <class T>
inline constexpr bool kOnTensorCores = std::is_same_v<T, bfloat16>;

// Of all elements of all tensors; a tensor that is read and written is named twice.
template <class... Tensors>
double bytes_of(const Tensors&... tensors) {
  return (static_cast<double>(tensors.bytes()) + ... + 0.0);
}
template <class T>
double bytes_for(int64_t count) {
  return static_cast<double>(count) * sizeof(T);
}

// Of a·b·c multiply-adds.
inline double flops_of(int64_t a, int64_t b = 1, int64_t c = 1) {
  return 2.0 * static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

}  // namespace sffn::cuda
