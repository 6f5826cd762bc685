// dbias[i·G + j] += Σ of dz[p,j] over the sorted rows p of block i       dbias [M] f32  dz [P,G] f32 or bf16
// A block of threads owns cells of one block of cells: lanes take as many as they load at once, the others of the 256
// threads every so many-th row, chunk after chunk, four loads at a time; their sums are added in order.
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/unroll.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kMostLanes = 32, kLoads = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    block_bias_gradient_kernel(float* dbias, const T* dz, BlockRows rows, int64_t chunks, int64_t G, unsigned strips) {
  __shared__ float of_thread[kCount][kThreads];
  const int64_t i = blockIdx.x / strips;
  const int64_t first_cell = int64_t{blockIdx.x % strips} * blockDim.x * kCount;
  const int64_t j = first_cell + threadIdx.x * kCount, stride = blockDim.y;
  float sum[kCount] = {};
  for (int64_t c = 0; j < G && c < chunks; ++c) {
    const int64_t last = rows.offsets[c * rows.blocks + i + 1];
    float part[kCount] = {};  // of a chunk: the rounding error grows with chunks and the rows of one, not with all rows
    const auto add = [&](const Pack<T, kCount>& row) {
      SFFN_UNROLL for (int e = 0; e < kCount; ++e) part[e] += to_float(row.at[e]);
    };
    const auto row_at = [&](int64_t p) { return *reinterpret_cast<const Pack<T, kCount>*>(dz + p * G + j); };
    int64_t p = rows.offsets[c * rows.blocks + i] + threadIdx.y;
    for (; p + (kLoads - 1) * stride < last; p += kLoads * stride) {
      Pack<T, kCount> row[kLoads];
      SFFN_UNROLL for (int n = 0; n < kLoads; ++n) row[n] = row_at(p + n * stride);
      SFFN_UNROLL for (int n = 0; n < kLoads; ++n) add(row[n]);
    }
    for (; p < last; p += stride) add(row_at(p));
    SFFN_UNROLL for (int e = 0; e < kCount; ++e) sum[e] += part[e];
  }
  SFFN_UNROLL for (int e = 0; e < kCount; ++e) of_thread[e][threadIdx.y * blockDim.x + threadIdx.x] = sum[e];
  __syncthreads();
  const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
  for (unsigned cell = me; cell < blockDim.x * kCount && first_cell + cell < G; cell += kThreads) {
    float total = 0;
    for (unsigned y = 0; y < blockDim.y; ++y) total += of_thread[cell % kCount][y * blockDim.x + cell / kCount];
    dbias[i * G + first_cell + cell] += total;
  }
}

}  // namespace

void block_bias_gradient(Stream& stream, Tensor dbias, const Tensor& dz, const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = dz.cols();
  with_activation_type("block_bias_gradient", dz, [&]<class T>(T) {
    const auto run = [&]<int kCount>(std::integral_constant<int, kCount>) {
      unsigned lanes = 1;
      while (lanes < kMostLanes && lanes * kCount < G) lanes *= 2;
      const unsigned strips = blocks_for(G, lanes * kCount);
      launch(stream, block_bias_gradient_kernel<kCount, T>,
             {static_cast<unsigned>(rows.blocks * strips), dim3(lanes, kThreads / lanes)},
             Work{bytes_of(dbias, dbias, dz)}, dbias.data<float>(), dz.data<T>(), rows, rows.chunks(), G, strips);
    };
    constexpr int kCount = kPackCount<T>;
    packs_fit(G, kCount, dz.data<T>()) ? run(std::integral_constant<int, kCount>())
                                       : run(std::integral_constant<int, 1>());
  });
}

}  // namespace sffn::cuda
