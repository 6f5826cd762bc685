// scores[n, h·k + i] = s1[h, n, cell / C2] + s2[h, n, cell % C2], cell = cells[n, h·k + i], or i where cells are absent
// ds1, ds2 [H,N,C]: the sums of dscores over the cells of each half key, in the order of dscores.
// Forward: lanes take the rows (n, h) of scores. Backward of chosen cells: a warp owns a row, 32 cells at a time; of
// the lanes with one half key the first adds the values of all to what is there, in order. Backward of all cells: lanes
// sum the rows of [N·C1,C2] for ds1, threads own the columns of ds2.
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

struct Sizes {
  int64_t H, N, C1, C2, k;
};

Sizes sizes_of(const Tensor& s1, const Tensor& s2, const Tensor& scores) {
  const int64_t H = s1.shape()[0];
  return {.H = H, .N = s1.shape()[1], .C1 = s1.cols(), .C2 = s2.cols(), .k = scores.cols() / H};
}

__global__ void product_scores_forward_kernel(float* scores, const float* s1, const float* s2, const int32_t* cells,
                                              Sizes s) {
  const int64_t row = row_of_thread(), n = row / s.H, half = row % s.H * s.N + n;
  if (n >= s.N) return;
  const auto columns = static_cast<unsigned>(s.C2);
  for (int64_t i = threadIdx.x; i < s.k; i += blockDim.x) {
    const auto cell = static_cast<unsigned>(cells != nullptr ? cells[row * s.k + i] : i);
    scores[row * s.k + i] = s1[half * s.C1 + cell / columns] + s2[half * s.C2 + cell % columns];
  }
}

// to[place] += value, lane after lane; place -1: nothing.
__device__ __forceinline__ void add_in_order(float* to, int place, float value) {
  const int me = static_cast<int>(threadIdx.x);
  float sum = place >= 0 ? to[place] : 0.0f;
  bool first = place >= 0;
  for (int lane = 0; lane < 32; ++lane) {
    const int other = __shfl_sync(0xffffffffu, place, lane);
    const float term = __shfl_sync(0xffffffffu, value, lane);
    if (other != place) continue;
    sum += term;
    if (lane < me) first = false;
  }
  __syncwarp();  // all have read
  if (first) to[place] = sum;
  __syncwarp();
}

__global__ void chosen_backward_kernel(float* ds1, float* ds2, const float* dscores, const int32_t* cells, Sizes s) {
  const int64_t row = row_of_thread(), n = row / s.H, half = row % s.H * s.N + n;
  if (n >= s.N) return;  // a warp is one row
  float *to1 = ds1 + half * s.C1, *to2 = ds2 + half * s.C2;
  for (int64_t j = threadIdx.x; j < s.C1; j += 32) to1[j] = 0;
  for (int64_t j = threadIdx.x; j < s.C2; j += 32) to2[j] = 0;
  __syncwarp();
  const auto columns = static_cast<int>(s.C2);
  for (int64_t first = 0; first < s.k; first += 32) {
    const int64_t i = first + threadIdx.x;
    const int cell = i < s.k ? cells[row * s.k + i] : -1;
    const float value = i < s.k ? dscores[row * s.k + i] : 0.0f;
    add_in_order(to1, cell < 0 ? -1 : cell / columns, value);
    add_in_order(to2, cell < 0 ? -1 : cell % columns, value);
  }
}

__global__ void all_backward1_kernel(float* ds1, const float* dscores, int64_t rows, int64_t C2) {
  const int64_t row = row_of_thread();
  float sum = 0;
  for (int64_t j = threadIdx.x; row < rows && j < C2; j += blockDim.x) sum += dscores[row * C2 + j];
  sum = lanes_sum(sum);
  if (row < rows && threadIdx.x == 0) ds1[row] = sum;
}

__global__ void all_backward2_kernel(float* ds2, const float* dscores, Sizes s) {
  const int64_t n = row_of_thread();
  if (n >= s.N) return;
  for (int64_t j = threadIdx.x; j < s.C2; j += blockDim.x) {
    float sum = 0;
    for (int64_t i = 0; i < s.C1; ++i) sum += dscores[(n * s.C1 + i) * s.C2 + j];
    ds2[n * s.C2 + j] = sum;
  }
}

}  // namespace

void product_scores_forward(Stream& stream, Tensor scores, const Tensor& s1, const Tensor& s2, const Tensor& cells) {
  const Sizes s = sizes_of(s1, s2, scores);
  launch(stream, product_scores_forward_kernel, shape_of_rows(s.N * s.H, s.k), Work{bytes_of(scores, s1, s2, cells)},
         scores.data<float>(), s1.data<float>(), s2.data<float>(), cells.data_or_null<int32_t>(), s);
}

void product_scores_backward(Stream& stream, Tensor ds1, Tensor ds2, const Tensor& dscores, const Tensor& cells) {
  const Sizes s = sizes_of(ds1, ds2, dscores);
  if (cells.defined()) {
    launch(stream, chosen_backward_kernel, shape_of_rows(s.N * s.H, 32, 32), Work{bytes_of(ds1, ds2, dscores, cells)},
           ds1.data<float>(), ds2.data<float>(), dscores.data<float>(), cells.data<int32_t>(), s);
    return;
  }
  launch(stream, all_backward1_kernel, shape_of_rows(s.N * s.C1, s.C2, 32), Work{bytes_of(ds1, dscores)},
         ds1.data<float>(), dscores.data<float>(), s.N * s.C1, s.C2);
  launch(stream, all_backward2_kernel, shape_of_rows(s.N, s.C2), Work{bytes_of(ds2, dscores)}, ds2.data<float>(),
         dscores.data<float>(), s);
}

}  // namespace sffn::cuda
