// y[n] = Σ_i weights[n,i]·h[inverse[n,i]]·W_block + bias (+ y), over the sorted rows of token n in order, rounded once
//                             y [N,D]  h [P,G]  W [M,D] f32 or bf16  weights [N,b], bias [D] f32; weights absent: 1
// A block of threads owns up to 256 tokens of one chunk and 64 columns: their sums stay in shared memory while it goes
// over the blocks of cells in order and adds the product of each with the rows of its tokens. So no product is stored,
// a token's terms are added in the order of its rows, and tokens do not depend on one another. Of the rows of one
// block, which ascend by choice, those of the tokens are found by bisection, for 256 blocks of cells at once. Steps are
// 64 rows and 64 cells of a block. Any type and size: fp32 multiply-adds, a column and 16 rows a thread. bf16 whose
// rows are whole 16 bytes: tensor cores, a warp has 8 columns of all rows; the next step is copied meanwhile.
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

#include <algorithm>
#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr int kTokens = 256, kColumns = 64, kRows = 64, kDepth = 64, kThreads = 256;
constexpr int kStride = kColumns + 8;  // of sums and of bf16: rows lie in different banks

template <class T>
struct Combination {
  T* y;
  const T* h;
  const float* weights;
  const T* w;
  const float* bias;
  BlockRows rows;
  bool accumulate;
  int64_t G, D, parts, strips;  // parts of a chunk's tokens, strips of columns
};

// What a block of threads owns.
struct Unit {
  int64_t pair, first, last, d;  // first pair of the chunk, tokens [first, last), columns from d on
};
template <class T>
__device__ __forceinline__ Unit unit_of_block(const Combination<T>& c) {
  const int64_t part = blockIdx.x / c.strips, chunk = part / c.parts, first = part % c.parts * kTokens;
  const int64_t begin = chunk * c.rows.chunk + first, end = (chunk + 1) * c.rows.chunk;
  const int64_t tokens = end < c.rows.tokens ? end : c.rows.tokens;
  return {chunk * c.rows.blocks, begin, begin + kTokens < tokens ? begin + kTokens : tokens,
          blockIdx.x % c.strips * kColumns};
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

// ---- By fp32 multiply-adds ----

constexpr int kThreadRows = kRows * kColumns / kThreads;

struct FloatStage {  // shared
  alignas(16) float sum[kTokens][kStride], h[kRows][kDepth + 4], w[kDepth][kColumns];
  float weight[kRows];
  int32_t token[kRows];  // of the unit
};

template <class T>
__device__ void fill(FloatStage& stage, const Combination<T>& c, const Unit& unit, const Step& step) {
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
__device__ void add_rows(FloatStage& stage, const float (&product)[kThreadRows], int count) {
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
__global__ void __launch_bounds__(kThreads) combine_kernel(Combination<T> c) {
  auto& stage = *dynamic_shared<FloatStage>();
  __shared__ Window window;
  const Unit unit = unit_of_block(c);
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

// ---- On tensor cores ----

constexpr int kStages = 2;

struct Stage {  // shared
  alignas(16) bfloat16 h[kRows][kStride], w[kDepth][kStride];
  int32_t choice[kRows];
};
struct Shared {
  alignas(16) float sum[kTokens][kStride];
  Stage stages[kStages];
};

// Asks for what a step multiplies; what does not exist is zero.
__device__ __forceinline__ void ask(Stage& stage, const Combination<bfloat16>& c, const Unit& unit, const Step& step) {
  constexpr int kPieces = 8;
  const int me = static_cast<int>(threadIdx.x), piece = me % kPieces * 8;
  for (int r = me / kPieces; r < kRows; r += kThreads / kPieces) {
    const bool copied = r < step.count && step.cell + piece < c.G;
    copy_async<16>(&stage.h[r][piece], copied ? c.h + (step.first + r) * c.G + step.cell + piece : c.h, copied);
  }
  for (int k = me / kPieces; k < kDepth; k += kThreads / kPieces) {
    const bool copied = step.cell + k < c.G && unit.d + piece < c.D;
    const int64_t cell = step.block * c.G + step.cell + k;
    copy_async<16>(&stage.w[k][piece], copied ? c.w + cell * c.D + unit.d + piece : c.w, copied);
  }
  if (me < kRows) {
    const bool copied = me < step.count;
    copy_async<4>(&stage.choice[me], copied ? c.rows.order + step.first + me : c.rows.order, copied);
  }
}

__device__ __forceinline__ void add_products(FragmentC (&product)[kRows / 16], const Stage& stage, int column,
                                             int count) {
  for (int k = 0; k < kDepth; k += 32) {
    FragmentB b[2];
    load_b_depths_transposed(b, &stage.w[k][column], kStride);
    for (int m = 0; m < kRows / 16; ++m) {
      if (m * 16 >= count) continue;
      for (int i = 0; i < 2; ++i) {
        FragmentA a;
        load_a(a, &stage.h[16 * m][k + 16 * i], kStride);
        multiply_add(product[m], a, b[i]);
      }
    }
  }
}

// The warp adds its 8 columns of 16 rows. Lanes whose rows share a token take turns.
__device__ __forceinline__ void add_rows(float (*sum)[kStride], const Combination<bfloat16>& c, const Unit& unit,
                                         const Stage& stage, const FragmentC& product, int first, int count,
                                         int column) {
  const int g = lane_of_warp() / 4, t = lane_of_warp() % 4;
  float2* to[2] = {};
  float weight[2] = {};
  bool shared = false;
  for (int half = 0; half < 2; ++half) {
    const int row = first + g + 8 * half;
    if (row >= count) continue;
    const int32_t choice = stage.choice[row], token = token_of_choice(c.rows, choice);
    to[half] = reinterpret_cast<float2*>(&sum[token - unit.first][column + 2 * t]);
    weight[half] = c.weights != nullptr ? c.weights[choice] : 1.0f;
    shared |= row > 0 && stage.choice[row - 1] >= token * c.rows.per_token;
  }
  const bool turns = __any_sync(0xffffffffu, shared) != 0;
  for (int turn = 0; turn < (turns ? 16 : 1); ++turn) {
    for (int half = 0; half < 2; ++half) {
      if (to[half] == nullptr || (turns && turn != g + 8 * half)) continue;
      to[half]->x += weight[half] * product.at[2 * half];
      to[half]->y += weight[half] * product.at[2 * half + 1];
    }
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kThreads) combine_on_tensor_cores_kernel(Combination<bfloat16> c) {
  auto& shared = *dynamic_shared<Shared>();
  __shared__ Window window;
  const Unit unit = unit_of_block(c);
  if (unit.first >= unit.last) return;
  const int column = static_cast<int>(threadIdx.x) / 32 * 8;  // of this warp
  clear_sums(shared.sum);
  Steps steps(window, c.rows, unit, c.G);
  FragmentC product[kRows / 16] = {};
  Step step = steps.next();
  if (step.count > 0) ask(shared.stages[0], c, unit, step);
  commit_copies();
  for (int s = 0; step.count > 0; s = (s + 1) % kStages) {
    wait_for_copies<0>();
    __syncthreads();  // this stage is there, and all have done with the one before
    const Step next = steps.next();
    if (next.count > 0) ask(shared.stages[(s + 1) % kStages], c, unit, next);
    commit_copies();
    const Stage& stage = shared.stages[s];
    add_products(product, stage, column, step.count);
    for (int m = 0; m < kRows / 16 && step.last; ++m) {
      if (m * 16 < step.count) add_rows(shared.sum, c, unit, stage, product[m], m * 16, step.count, column);
      product[m] = {};
    }
    step = next;
  }
  write_sums(c, unit, shared.sum);
}

template <class T>
void combine(Stream& stream, Combination<T> c) {
  c.parts = (std::min(c.rows.chunk, c.rows.tokens) + kTokens - 1) / kTokens;
  c.strips = (c.D + kColumns - 1) / kColumns;
  const Work work = block_product_work<T>(c.rows, c.G, c.D,
                                          (c.accumulate ? bytes_for<T>(c.rows.tokens * c.D) : 0) +
                                              (c.weights != nullptr ? bytes_for<float>(c.rows.choices()) : 0));
  const LaunchShape shape{static_cast<unsigned>(c.rows.chunks() * c.parts * c.strips), kThreads};
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (packs_fit(c.G, 8, c.h) && packs_fit(c.D, 8, c.w)) {
      launch(stream, combine_on_tensor_cores_kernel, {shape.grid, shape.block, sizeof(Shared)}, work, c);
      return;
    }
  }
  launch(stream, combine_kernel<T>, {shape.grid, shape.block, sizeof(FloatStage)}, work, c);
}

}  // namespace

void block_combine(Stream& stream, Tensor y, const Tensor& h, const Tensor& weights, const Tensor& w,
                   const Tensor& bias, const BlockRouting& routing, Accumulate accumulate) {
  const BlockRows rows(routing);
  with_activation_type("block_combine", y, [&]<class T>(T) {
    combine(stream, Combination<T>{.y = y.data<T>(),
                                   .h = h.data<T>(),
                                   .weights = weights.data_or_null<float>(),
                                   .w = w.data<T>(),
                                   .bias = bias.data_or_null<float>(),
                                   .rows = rows,
                                   .accumulate = accumulate == Accumulate::kYes,
                                   .G = h.cols(),
                                   .D = y.cols(),
                                   .parts = 0,
                                   .strips = 0});
  });
}

}  // namespace sffn::cuda
