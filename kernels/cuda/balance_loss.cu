// group_sum:            out[s,c] = Σ over the rows of group s of x[n,c]                     out [S,C]  x [N,C]
// balance_loss:         loss[0] += weight·mean over groups of the loss of sums[s,:];  dsums = its gradient by
//                       gradient_weight; the equations stand in op_list.inc                  sums, dsums, counts [S,B]
// mean_square:          loss[0] += weight·mean(x²)                                           x [N]
// update_balance_bias:  bias[i] += rate·sign(mean(load) - load[i]), where the update is applied  bias [B]  load [B] f64
// All sums are in double. group_sum: a block of threads sums kRun rows of 32 columns, in float over 64 rows of a
// thread. A group of balance_loss has a block; the losses of the groups, and pieces of mean_square, are then added in
// order.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sum_rows.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsAtOnce = 8;
constexpr int64_t kRun = 1024;    // rows
constexpr int64_t kPiece = 8192;  // elements of mean_square

__global__ void sum_run_kernel(double* partial, const float* x, int64_t group_rows, int64_t runs, int64_t columns,
                               int64_t strips) {
  __shared__ double of_thread[kRowsAtOnce][32];
  const int64_t unit = blockIdx.x / strips, c = blockIdx.x % strips * 32 + threadIdx.x;  // unit: group·runs + run
  const int64_t first = unit % runs * kRun, last = first + kRun < group_rows ? first + kRun : group_rows;
  const float* column = x + unit / runs * group_rows * columns + c;
  double total = 0;
  for (int64_t begin = first + threadIdx.y; begin < last && c < columns; begin += 64 * kRowsAtOnce) {
    float sum = 0;
    for (int64_t r = begin; r < last && r < begin + 64 * kRowsAtOnce; r += kRowsAtOnce) sum += column[r * columns];
    total += static_cast<double>(sum);
  }
  of_thread[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  for (int y = 1; y < kRowsAtOnce; ++y) total += of_thread[y][threadIdx.x];
  partial[unit * columns + c] = total;
}

// The loss of one group; d(i) is its derivative by sums[i].
struct Group {
  const float* sums;
  const int32_t* counts;
  int64_t blocks;
  double tokens;
  double choices = 0, mean = 0, variance = 0;  // over the group, where the loss wants them

  template <class Term>
  __device__ double total(Term&& term) const {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += term(i);
    return block_sum(sum);
  }
  __device__ double sum(int64_t i) const { return static_cast<double>(sums[i]); }

  __device__ double switch_loss() {
    choices = total([&](int64_t i) { return static_cast<double>(counts[i]); });
    return total([&](int64_t i) { return switch_gradient(i) * sum(i); });
  }
  __device__ double switch_gradient(int64_t i) const {
    const double share = choices > 0 ? counts[i] / choices : 0;
    return static_cast<double>(blocks) * share / tokens;
  }
  __device__ double entropy_loss() const {
    return total([&](int64_t i) {
      const double p = sum(i) / tokens;
      return p == 0 ? 0 : p * log(p);
    });
  }
  __device__ double entropy_gradient(int64_t i) const { return sum(i) == 0 ? 0 : (log(sum(i) / tokens) + 1) / tokens; }
  __device__ double cv2_loss() {
    const auto count = static_cast<double>(blocks);
    mean = total([&](int64_t i) { return sum(i); }) / count;
    variance = total([&](int64_t i) { return (sum(i) - mean) * (sum(i) - mean); }) / count;
    return mean == 0 ? 0 : variance / (mean * mean);
  }
  __device__ double cv2_gradient(int64_t i) const {
    if (mean == 0) return 0;
    return 2 / static_cast<double>(blocks) * (sum(i) - mean - variance / mean) / (mean * mean);
  }
};

// dsums may be sums: a thread reads the sums it overwrites, after all others have been used.
__global__ void balance_loss_kernel(double* losses, float* dsums, const float* sums, const int32_t* counts,
                                    BalanceLoss kind, int64_t blocks, double tokens, double scale) {
  const int64_t row = blockIdx.x * blocks;
  Group group{sums + row, counts == nullptr ? nullptr : counts + row, blocks, tokens};
  double loss = 0;
  if (tokens > 0) {
    loss = kind == BalanceLoss::kSwitch    ? group.switch_loss()
           : kind == BalanceLoss::kEntropy ? group.entropy_loss()
                                           : group.cv2_loss();
  }
  if (threadIdx.x == 0) losses[blockIdx.x] = loss;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) {
    const double d = tokens <= 0                     ? 0
                     : kind == BalanceLoss::kSwitch  ? group.switch_gradient(i)
                     : kind == BalanceLoss::kEntropy ? group.entropy_gradient(i)
                                                     : group.cv2_gradient(i);
    dsums[row + i] = static_cast<float>(scale * d);
  }
}

__global__ void square_sum_kernel(double* partial, const float* x, int64_t n) {
  const int64_t first = blockIdx.x * kPiece, last = first + kPiece < n ? first + kPiece : n;
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kThreads) {
    const auto value = static_cast<double>(x[i]);
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// loss[0] += scale·Σ partial. One block.
__global__ void add_scaled_sum_kernel(float* loss, const double* partial, int64_t count, double scale) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) loss[0] += static_cast<float>(scale * sum);
}

// Loads are counts: their sum and B·load are exact in double, their mean is not. One block.
__global__ void update_balance_bias_kernel(float* bias, const double* load, const double* numbers, int64_t blocks,
                                           float rate) {
  if (numbers[update::kApplied] == 0) return;
  double total = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) total += load[i];
  total = block_sum(total);
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) {
    const double scaled = static_cast<double>(blocks) * load[i];
    if (scaled < total) bias[i] += rate;
    if (scaled > total) bias[i] -= rate;
  }
}

}  // namespace

void group_sum(Stream& stream, Tensor out, const Tensor& x) {
  const int64_t groups = out.rows(), columns = x.cols(), group_rows = x.rows() / groups;
  const int64_t runs = (group_rows + kRun - 1) / kRun, strips = (columns + 31) / 32;
  auto* partial = workspace<double>(stream, groups * runs * columns);
  launch(stream, sum_run_kernel, {blocks_for(groups * runs * strips, 1), dim3(32, kRowsAtOnce)},
         Work{bytes_of(x) + bytes_for<double>(groups * runs * columns)}, partial, x.data<float>(), group_rows, runs,
         columns, strips);
  sum_partials(stream, out.data<float>(), partial, groups, runs, columns);
}

void balance_loss(Stream& stream, Tensor loss, Tensor dsums, const Tensor& sums, const Tensor& counts, BalanceLoss kind,
                  double tokens, double weight, double gradient_weight) {
  const int64_t groups = sums.rows();
  const auto each = 1 / static_cast<double>(groups);
  auto* losses = workspace<double>(stream, groups);
  launch(stream, balance_loss_kernel, {blocks_for(groups, 1), kThreads},
         Work{bytes_of(dsums, sums, counts) + bytes_for<double>(groups)}, losses, dsums.data<float>(),
         sums.data<float>(), counts.data_or_null<int32_t>(), kind, sums.cols(), tokens, gradient_weight * each);
  launch(stream, add_scaled_sum_kernel, {1, kThreads}, Work{bytes_for<double>(groups) + bytes_of(loss, loss)},
         loss.data<float>(), losses, groups, weight * each);
}

void mean_square(Stream& stream, Tensor loss, const Tensor& x, double weight) {
  const int64_t n = x.numel();
  if (n == 0) return;
  const unsigned pieces = blocks_for(n, kPiece);
  auto* partial = workspace<double>(stream, pieces);
  launch(stream, square_sum_kernel, {pieces, kThreads}, Work{bytes_of(x) + bytes_for<double>(pieces)}, partial,
         x.data<float>(), n);
  launch(stream, add_scaled_sum_kernel, {1, kThreads}, Work{bytes_for<double>(pieces) + bytes_of(loss, loss)},
         loss.data<float>(), partial, int64_t{pieces}, weight / static_cast<double>(n));
}

void update_balance_bias(Stream& stream, Tensor bias, const Tensor& load, const Tensor& numbers, double rate) {
  launch(stream, update_balance_bias_kernel, {1, kThreads}, Work{bytes_of(bias, bias, load)}, bias.data<float>(),
         load.data<double>(), numbers.data<double>(), bias.numel(), static_cast<float>(rate));
}

}  // namespace sffn::cuda
