// out[c] += Σ_r x[r,c]                                                        out [C] f32  x [R,C] f32 or bf16
// A block owns 32 columns: each of its warps sums every 8th row, then the 8 sums are added in order.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kColumns = 32, kRowsAtOnce = 8;

template <class T>
__global__ void column_sum_kernel(float* out, const T* x, int64_t rows, int64_t cols) {
  __shared__ float partial[kRowsAtOnce][kColumns];
  const int64_t c = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (c < cols) {
    for (int64_t r = threadIdx.y; r < rows; r += kRowsAtOnce) sum += to_float(x[r * cols + c]);
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
  float total = 0;
  for (int i = 0; i < kRowsAtOnce; ++i) total += partial[i][threadIdx.x];
  out[c] += total;
}

}  // namespace

void column_sum(Stream& stream, Tensor out, const Tensor& x) {
  with_activation_type("column_sum", x, [&]<class T>(T) {
    launch(stream, column_sum_kernel<T>, {blocks_for(x.cols(), kColumns), dim3(kColumns, kRowsAtOnce)},
           Work{bytes_of(out, out, x)}, out.data<float>(), x.data<T>(), x.rows(), x.cols());
  });
}

}  // namespace sffn::cuda
