// dbias[i·G + j] += Σ of dz[p,j] over the sorted rows p of block i                    dbias [M] f32  dz [P,G] f32 or
// bf16 A block of threads owns up to 32 cells of one block: lanes take cells, the others of the 256 threads every so
// many-th row, chunk after chunk; their sums are added in order.
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kMostCells = 32;

template <class T>
__global__ void block_bias_gradient_kernel(float* dbias, const T* dz, BlockRows rows, int64_t chunks, int64_t G,
                                           int64_t strips) {
  __shared__ float partial[kThreads];
  const int64_t i = blockIdx.x / strips, j = blockIdx.x % strips * blockDim.x + threadIdx.x;
  float sum = 0;
  for (int64_t c = 0; j < G && c < chunks; ++c) {
    const int64_t last = rows.offsets[c * rows.blocks + i + 1];
    float part = 0;  // of a chunk: the rounding error grows with chunks and the rows of one, not with all rows
    for (int64_t p = rows.offsets[c * rows.blocks + i] + threadIdx.y; p < last; p += blockDim.y) {
      part += to_float(dz[p * G + j]);
    }
    sum += part;
  }
  partial[threadIdx.y * blockDim.x + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || j >= G) return;
  float total = 0;
  for (unsigned y = 0; y < blockDim.y; ++y) total += partial[y * blockDim.x + threadIdx.x];
  dbias[i * G + j] += total;
}

}  // namespace

void block_bias_gradient(Stream& stream, Tensor dbias, const Tensor& dz, const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = dz.cols();
  unsigned lanes = 1;
  while (lanes < kMostCells && lanes < G) lanes *= 2;
  const int64_t strips = (G + lanes - 1) / lanes;
  with_activation_type("block_bias_gradient", dz, [&]<class T>(T) {
    launch(stream, block_bias_gradient_kernel<T>,
           {static_cast<unsigned>(rows.blocks * strips), dim3(lanes, kThreads / lanes)},
           Work{bytes_of(dbias, dbias, dz)}, dbias.data<float>(), dz.data<T>(), rows, rows.chunks(), G, strips);
  });
}

}  // namespace sffn::cuda
