// block_combine for any type and size. A block of threads owns up to 256 tokens of one chunk and 64 columns: their sums
// stay in shared memory while it goes over the blocks of cells in order and adds the product of each with the rows of
// its tokens. So a token's terms are added in the order of its rows, and tokens do not depend on one another. Of the
// rows of one block, which ascend by choice, those of the tokens are found by bisection, for 256 blocks of cells at
// once. Steps are 64 rows and 64 cells of a block, by fp32 multiply-adds: a column and 16 rows a thread.
#pragma once
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"

#include <algorithm>

namespace sffn::cuda {

template <class T>
struct Combination {
  T* y;
  const T* h;
  const float* weights;
  const T* w;
  const float* bias;
  BlockRows rows;
  bool accumulate;
  int64_t G, D;
};

namespace units {

inline constexpr int kTokens = 256, kColumns = 64, kRows = 64, kDepth = 64, kThreads = 256;
inline constexpr int kStride = kColumns + 8;  // of sums: rows lie in different banks
inline constexpr int kThreadRows = kRows * kColumns / kThreads;

// What a block of threads owns.
struct Unit {
  int64_t pair, first, last, d;  // first pair of the chunk, tokens [first, last), columns from d on
};
template <class T>
__device__ __forceinline__ Unit unit_of_block(const Combination<T>& c, int64_t parts, int64_t strips) {
  const int64_t part = blockIdx.x / strips, chunk = part / parts, first = part % parts * kTokens;
  const int64_t begin = chunk * c.rows.chunk + first, end = (chunk + 1) * c.rows.chunk;
  const int64_t tokens = end < c.rows.tokens ? end : c.rows.tokens;
  return {chunk * c.rows.blocks, begin, begin + kTokens < tokens ? begin + kTokens : tokens,
          blockIdx.x % strips * kColumns};
}

// Rows [first, first + count) of a block and its cells from `cell` on; the last cells of these rows, or not.
struct Step {
  int64_t block, first, cell;
  int count;  // 0: there are no more steps
  bool last;
};

struct Window {  // shared: the rows of the unit's tokens in kThreads blocks
  int32_t begin[kThreads], end[kThreads];
};

// The steps of a unit in order. All threads take them together.
class Steps {
 public:
  __device__ Steps(Window& window, const BlockRows& rows, const Unit& unit, int64_t cells)
      : window_(window), rows_(rows), unit_(unit), cells_(cells) {}

  __device__ Step next() {
    while (row_ >= end_) {
      if (++block_ >= rows_.blocks) return {0, 0, 0, 0, false};
      const int place = static_cast<int>(block_ % kThreads);
      if (place == 0) find();
      row_ = window_.begin[place], end_ = window_.end[place];
    }
    const int64_t left = end_ - row_;
    const Step step{block_, row_, cell_, left < kRows ? static_cast<int>(left) : kRows, cell_ + kDepth >= cells_};
    cell_ += kDepth;
    if (step.last) cell_ = 0, row_ += kRows;
    return step;
  }

 private:
  // The first row of [begin, end) whose choice is not before `choice`.
  __device__ int32_t bisect(int32_t begin, int32_t end, int64_t choice) const {
    while (begin < end) {
      const int32_t middle = begin + (end - begin) / 2;
      if (rows_.order[middle] < choice) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }
  __device__ void find() {
    const int64_t block = block_ + threadIdx.x;
    __syncthreads();  // all have read the last window
    if (block < rows_.blocks) {
      const int32_t begin = rows_.offsets[unit_.pair + block], end = rows_.offsets[unit_.pair + block + 1];
      const int32_t mine = bisect(begin, end, unit_.first * rows_.per_token);
      window_.begin[threadIdx.x] = mine;
      window_.end[threadIdx.x] = bisect(mine, end, unit_.last * rows_.per_token);
    }
    __syncthreads();
  }

  Window& window_;
  const BlockRows& rows_;
  const Unit& unit_;
  int64_t cells_, block_ = -1, cell_ = 0, row_ = 0, end_ = 0;
};

__device__ __forceinline__ void clear_sums(float (*sum)[kStride]) {
  for (int e = static_cast<int>(threadIdx.x); e < kTokens * kStride; e += kThreads) sum[e / kStride][e % kStride] = 0;
  __syncthreads();
}

template <class T>
__device__ void write_sums(const Combination<T>& c, const Unit& unit, const float (*sum)[kStride]) {
  __syncthreads();
  for (int64_t e = threadIdx.x; e < (unit.last - unit.first) * kColumns; e += kThreads) {
    const int64_t n = e / kColumns, column = e % kColumns, d = unit.d + column;
    if (d >= c.D) continue;
    T& y = c.y[(unit.first + n) * c.D + d];
    const float before = c.accumulate ? to_float(y) : 0.0f, bias = c.bias != nullptr ? c.bias[d] : 0.0f;
    store(y, sum[n][column] + bias + before);
  }
}

struct Stage {  // shared
  alignas(16) float sum[kTokens][kStride], h[kRows][kDepth + 4], w[kDepth][kColumns];
  float weight[kRows];
  int32_t token[kRows];  // of the unit
};

template <class T>
__device__ void fill(Stage& stage, const Combination<T>& c, const Unit& unit, const Step& step) {
  const int me = static_cast<int>(threadIdx.x);
  const int64_t cells = c.G - step.cell;
  for (int e = me; e < kRows * kDepth; e += kThreads) {
    const int r = e / kDepth, k = e % kDepth;
    const bool exists = r < step.count && k < cells;
    stage.h[r][k] = exists ? to_float(c.h[(step.first + r) * c.G + step.cell + k]) : 0.0f;
  }
  for (int e = me; e < kDepth * kColumns; e += kThreads) {
    const int64_t k = e / kColumns, d = unit.d + e % kColumns;
    const bool exists = k < cells && d < c.D;
    stage.w[k][e % kColumns] = exists ? to_float(c.w[(step.block * c.G + step.cell + k) * c.D + d]) : 0.0f;
  }
  if (me < step.count) {
    const int32_t choice = c.rows.order[step.first + me];
    stage.token[me] = static_cast<int32_t>(token_of_choice(c.rows, choice) - unit.first);
    stage.weight[me] = c.weights != nullptr ? c.weights[choice] : 1.0f;
  }
}

// Of 16 rows and one column. Groups of threads whose rows share a token take turns.
__device__ __forceinline__ void add_rows(Stage& stage, const float (&product)[kThreadRows], int count) {
  const int column = static_cast<int>(threadIdx.x) % kColumns, group = static_cast<int>(threadIdx.x) / kColumns;
  bool shared = false;
  for (int r = kThreadRows; r < count; r += kThreadRows) shared |= stage.token[r] == stage.token[r - 1];
  for (int turn = 0; turn < (shared ? kThreads / kColumns : 1); ++turn) {
    for (int r = 0; r < kThreadRows && (!shared || turn == group); ++r) {
      const int row = group * kThreadRows + r;
      if (row < count) stage.sum[stage.token[row]][column] += stage.weight[row] * product[r];
    }
    if (shared) __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) combine_units_kernel(Combination<T> c, int64_t parts, int64_t strips) {
  auto& stage = *dynamic_shared<Stage>();
  __shared__ Window window;
  const Unit unit = unit_of_block(c, parts, strips);
  if (unit.first >= unit.last) return;
  const int column = static_cast<int>(threadIdx.x) % kColumns, group = static_cast<int>(threadIdx.x) / kColumns;
  clear_sums(stage.sum);
  Steps steps(window, c.rows, unit, c.G);
  float product[kThreadRows] = {};
  for (Step step = steps.next(); step.count > 0; step = steps.next()) {
    __syncthreads();
    fill(stage, c, unit, step);
    __syncthreads();
    const int depth = c.G - step.cell < kDepth ? static_cast<int>(c.G - step.cell) : kDepth;
    for (int k = 0; k < depth; k += 4) {
      const float w[4] = {stage.w[k][column], stage.w[k + 1][column], stage.w[k + 2][column], stage.w[k + 3][column]};
      for (int r = 0; r < kThreadRows; ++r) {
        const float4 h = *reinterpret_cast<const float4*>(&stage.h[group * kThreadRows + r][k]);
        product[r] += h.x * w[0], product[r] += h.y * w[1], product[r] += h.z * w[2], product[r] += h.w * w[3];
      }
    }
    if (!step.last) continue;
    add_rows(stage, product, step.count);
    for (int r = 0; r < kThreadRows; ++r) product[r] = 0;
  }
  write_sums(c, unit, stage.sum);
}

}  // namespace units

template <class T>
void combine_units(Stream& stream, const Combination<T>& c, const Work& work) {
  const int64_t parts = (std::min(c.rows.chunk, c.rows.tokens) + units::kTokens - 1) / units::kTokens;
  const int64_t strips = (c.D + units::kColumns - 1) / units::kColumns;
  const LaunchShape shape{static_cast<unsigned>(c.rows.chunks() * parts * strips), units::kThreads,
                          sizeof(units::Stage)};
  launch(stream, units::combine_units_kernel<T>, shape, work, c, parts, strips);
}

}  // namespace sffn::cuda
