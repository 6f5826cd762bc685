// How a kernel is started, and the memory it shares: the only words that differ between nvcc and the SIMT executor.
#pragma once
#include "core/error.h"
#include "kernels/cuda/profile.h"

#include <cuda_runtime.h>
#if SFFN_SIMT
#include "simt/stream.h"
#endif

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

namespace sffn::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw RunError("cuda", cat(what, ": ", cudaGetErrorString(error)));
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
};

// Zeros on the stream.
inline void clear_bytes(Stream& stream, void* data, size_t bytes) {
  const Timed timed(stream, "cudaMemsetAsync", Work{static_cast<double>(bytes)});
  check(cudaMemsetAsync(data, 0, bytes, native(stream).stream), "cudaMemsetAsync");
}

#if defined(__CUDACC__) || SFFN_SIMT  // else only what host code of the CUDA build needs

// kernel<<<shape>>>(args...) on the stream. An empty grid starts nothing. Arguments convert to the kernel's types.
template <class... Params, class... Args>
void launch(Stream& stream, void (*kernel)(Params...), const LaunchShape& shape, const Work& work, Args&&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
#ifdef __CUDACC__
  constexpr size_t kDefaultLimit = 48 << 10;
  if (shape.shared_bytes > kDefaultLimit) {
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
        "dynamic shared memory");
  }
  const Timed timed(stream, reinterpret_cast<const void*>(kernel), work);
  kernel<<<shape.grid, shape.block, shape.shared_bytes, native(stream).stream>>>(
      static_cast<Params>(std::forward<Args>(args))...);
  check(cudaGetLastError(), "launch");
#else
  const Timed timed(stream, reinterpret_cast<const void*>(kernel), work);
  simt::enqueue(native(stream).stream,
                [shape, kernel, all = std::tuple<Params...>(static_cast<Params>(std::forward<Args>(args))...)] {
                  simt::run_grid(shape.grid, shape.block, shape.shared_bytes, reinterpret_cast<const void*>(kernel),
                                 [&] { std::apply(kernel, all); });
                });
#endif
}

// The launch's dynamic shared memory, aligned to 16 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
#else
  return static_cast<T*>(simt::dynamic_shared_memory());
#endif
}

#endif

// Blocks of `per_block` that cover `count`: at most `most`, for kernels whose blocks go around a loop.
inline unsigned blocks_for(int64_t count, int64_t per_block, int64_t most = 0x7fffffff) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

}  // namespace sffn::cuda
