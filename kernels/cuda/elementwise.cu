// fill_zero:  x = 0                                                                              any shape, any type
// copy:       y = x, converting                                      as many elements; f32, bf16, f64, or i32 to i32
// add:        y += x, rounded to the type of y                                               one shape; f32 or bf16
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/ops.h"

#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 8192;  // more elements go around the loop

template <class To, class From>
__global__ void convert_kernel(To* y, const From* x, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) store(y[i], to_float(x[i]));
}

template <class To, class From>
__global__ void add_kernel(To* y, const From* x, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    store(y[i], to_float(y[i]) + to_float(x[i]));
  }
}

LaunchShape shape_for(int64_t count) { return {blocks_for(count, kThreads, kMostBlocks), kThreads}; }

}  // namespace

void fill_zero(Stream& stream, Tensor x) {
  if (x.bytes() == 0) return;
  clear_bytes(stream, x.raw(), x.bytes());
}

void copy(Stream& stream, Tensor y, const Tensor& x) {
  if (x.numel() == 0) return;
  if (x.dtype() == y.dtype()) {
    const Timed timed(stream, "cudaMemcpyAsync", Work{bytes_of(y, x)});
    check(cudaMemcpyAsync(y.raw(), x.raw(), x.bytes(), cudaMemcpyDeviceToDevice, native(stream).stream), "copy");
    return;
  }
  with_activation_type("copy", x, [&]<class From>(From) {
    if (y.dtype() == DType::kF64) {
      launch(stream, convert_kernel<double, From>, shape_for(x.numel()), Work{bytes_of(y, x)}, y.data<double>(),
             x.data<From>(), x.numel());
      return;
    }
    with_activation_type("copy", y, [&]<class To>(To) {
      if constexpr (!std::is_same_v<To, From>) {
        launch(stream, convert_kernel<To, From>, shape_for(x.numel()), Work{bytes_of(y, x)}, y.data<To>(),
               x.data<From>(), x.numel());
      }
    });
  });
}

void add(Stream& stream, Tensor y, const Tensor& x) {
  with_activation_type("add", x, [&]<class From>(From) {
    with_activation_type("add", y, [&]<class To>(To) {
      launch(stream, add_kernel<To, From>, shape_for(x.numel()), Work{bytes_of(y, y, x)}, y.data<To>(), x.data<From>(),
             x.numel());
    });
  });
}

}  // namespace sffn::cuda
