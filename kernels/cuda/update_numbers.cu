// tree_sum:        out[c] = Σ over the leaves of x[leaf, c], level by level of the tree           out [C]  x [M,C] f64
// update_numbers:  loss, norm, whether both are finite, and the scale of clipping, from the sums of a step
// Both are small, and run so that no number of a step is read by the host before the update. A block sums one column;
// a level goes from one half of its memory to the other, so that no thread overwrites what another still reads.
#include "kernels/cuda/launch.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void tree_sum_kernel(double* out, double* nodes, const double* x, int64_t leaves, int64_t columns) {
  const int64_t c = blockIdx.x;
  double *from = nodes + 2 * c * leaves, *to = from + leaves;
  for (int64_t leaf = threadIdx.x; leaf < leaves; leaf += kThreads) from[leaf] = x[leaf * columns + c];
  __syncthreads();
  for (int64_t count = leaves; count > 1; count = (count + 1) / 2) {
    for (int64_t i = threadIdx.x; 2 * i < count; i += kThreads) {
      to[i] = 2 * i + 1 < count ? from[2 * i] + from[2 * i + 1] : from[2 * i];
    }
    __syncthreads();
    double* const level = to;
    to = from;
    from = level;
  }
  if (threadIdx.x == 0) out[c] = leaves > 0 ? from[0] : 0.0;
}

// One thread.
__global__ void update_numbers_kernel(double* numbers, const double* sums, int64_t layers, const double* squares,
                                      double tokens, double leaves, double clip) {
  double loss = sums[0] / tokens;
  for (int64_t l = 1; l <= layers; ++l) loss += sums[l] / leaves;
  const double norm = sqrt(squares[0]);
  numbers[update::kLoss] = loss;
  numbers[update::kNorm] = norm;
  numbers[update::kApplied] = isfinite(loss) && isfinite(norm) ? 1.0 : 0.0;
  numbers[update::kGradientScale] = clip > 0 && norm > clip ? clip / norm : 1.0;
}

}  // namespace

void tree_sum(Stream& stream, Tensor out, const Tensor& x) {
  const int64_t leaves = x.rows(), columns = x.cols();
  auto* nodes = workspace<double>(stream, 2 * leaves * columns);
  launch(stream, tree_sum_kernel, {blocks_for(columns, 1), kThreads}, Work{bytes_of(x, out)}, out.data<double>(), nodes,
         x.data<double>(), leaves, columns);
}

void update_numbers(Stream& stream, Tensor numbers, const Tensor& sums, const Tensor& squares, double tokens,
                    double leaves, double clip) {
  launch(stream, update_numbers_kernel, {1, 1}, Work{bytes_of(numbers, sums, squares)}, numbers.data<double>(),
         sums.data<double>(), sums.numel() - 1, squares.data<double>(), tokens, leaves, clip);
}

}  // namespace sffn::cuda
