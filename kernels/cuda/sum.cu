// sum:             out[0] = Σ x
// sum_of_squares:  partial[i] = Σ of x² over chunk i
// Both in double: partial sums of a block, then, for sum, one block over those.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPiece = 8192;  // elements a block of sum adds

struct Square {
  __device__ double operator()(double x) const { return x * x; }
};
struct Same {
  __device__ double operator()(double x) const { return x; }
};

__device__ double to_double(double x) { return x; }
template <class T>
__device__ double to_double(T x) {
  return to_float(x);
}

// partial[i] = Σ of f(x) over elements [i·chunk, (i+1)·chunk) of n
template <class T, class F>
__global__ void chunk_sum_kernel(double* partial, const T* x, int64_t n, int64_t chunk, F f) {
  const int64_t first = blockIdx.x * chunk, last = first + chunk < n ? first + chunk : n;
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kThreads) sum += f(to_double(x[i]));
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

}  // namespace

void sum(Stream& stream, Tensor out, const Tensor& x) {
  const int64_t n = x.numel();
  const unsigned pieces = blocks_for(n, kPiece);
  double* partial = workspace<double>(stream, pieces);
  with_activation_type("sum", x, [&]<class T>(T) {
    launch(stream, chunk_sum_kernel<T, Same>, {pieces, kThreads}, Work{bytes_of(x) + bytes_for<double>(pieces)},
           partial, x.data<T>(), n, kPiece, Same());
  });
  launch(stream, chunk_sum_kernel<double, Same>, {1, kThreads}, Work{bytes_for<double>(pieces) + bytes_of(out)},
         out.data<double>(), partial, pieces, int64_t{pieces} + 1, Same());
}

void sum_of_squares(Stream& stream, Tensor partial, const Tensor& x, int64_t chunk) {
  with_activation_type("sum_of_squares", x, [&]<class T>(T) {
    launch(stream, chunk_sum_kernel<T, Square>, {blocks_for(x.numel(), chunk), kThreads}, Work{bytes_of(partial, x)},
           partial.data<double>(), x.data<T>(), x.numel(), chunk, Square());
  });
}

}  // namespace sffn::cuda
