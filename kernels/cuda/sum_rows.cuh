// Sums over runs of rows of one column, in the order of rows: runs of a fixed number of rows are summed apart, in
// double, then added in order.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace sffn::cuda {

// out[s,c] = Σ over the runs r, in order, of partial[s·runs + r, c]. A block of threads has 32 columns of one group,
// each cut into 32 stretches.
template <class Out>  // a template, so that several files may have it
__global__ void sum_partials_kernel(Out* out, const double* partial, int64_t runs, int64_t columns, int64_t strips) {
  __shared__ double of_stretch[32][32];
  const int64_t group = blockIdx.x / strips, c = blockIdx.x % strips * 32 + threadIdx.x;
  const int64_t stretch = (runs + 31) / 32, first = threadIdx.y * stretch;
  const int64_t last = first + stretch < runs ? first + stretch : runs;
  double sum = 0;
  for (int64_t r = first; r < last && c < columns; ++r) sum += partial[(group * runs + r) * columns + c];
  of_stretch[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  for (int y = 1; y < 32; ++y) sum += of_stretch[y][threadIdx.x];
  out[group * columns + c] = static_cast<Out>(sum);
}

inline void sum_partials(Stream& stream, float* out, const double* partial, int64_t groups, int64_t runs,
                         int64_t columns) {
  const int64_t strips = (columns + 31) / 32;
  launch(stream, sum_partials_kernel<float>, {blocks_for(groups * strips, 1), dim3(32, 32)},
         Work{bytes_for<double>(groups * runs * columns) + bytes_for<float>(groups * columns)}, out, partial, runs,
         columns, strips);
}

}  // namespace sffn::cuda
