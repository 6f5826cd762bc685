#include "kernels/cpu/block_tiles.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

using namespace blocks;

constexpr int64_t kTokens = 2048;  // of a unit of work, and its columns: each table is read once per kTokens, h once
constexpr int64_t kColumns = 256;  // per kColumns
constexpr int64_t kFewCells = 8;   // up to here a row is added at once, not in panels of columns

template <class T>
struct Combination {
  T* y;
  const T* h;
  const float* weights;
  const T* w;
  const float* bias;
  BlockRows rows;
  Accumulate accumulate;
  int64_t G, D;
};

// Tokens [first, last) of one chunk and `width` columns from d on. Their sums are rows of `stride` floats.
struct Unit {
  int64_t first, last, d, width;
  float* sum = nullptr;
  int64_t stride() const { return vectors_of(width) * kLanes; }
};

// Sorted rows [begin, end) of one block.
struct Rows {
  int64_t block, begin, end;
};

// Where the R rows from `row` on are added, and by which weight.
template <int R>
struct Targets {
  float* sum[R];
  float weight[R];

  template <class T>
  Targets(const Combination<T>& c, const Unit& u, int64_t row) {
    for (int r = 0; r < R; ++r) {
      const int32_t choice = c.rows.order[row + r];
      weight[r] = c.weights != nullptr ? c.weights[choice] : 1.0f;
      sum[r] = u.sum + (choice / c.rows.per_token - u.first) * u.stride();
    }
  }
};

// sum[token, column …] += weight·h[row]·w_block for V vectors of columns
template <int V, class T>
void add_panel(const Combination<T>& c, const Unit& u, const Rows& rows, int64_t column) {
  thread_local Scratch panel_memory, row_memory;
  auto* panel = static_cast<float*>(panel_memory.get(sizeof(float) * c.G * V * kLanes));
  auto* widened_rows = static_cast<float*>(row_memory.get(sizeof(float) * c.G * kRows));
  const T* w = c.w + rows.block * c.G * c.D + u.d + column;
  for (int64_t j = 0; j < c.G; ++j) {
    widen(panel + j * V * kLanes, w + j * c.D, std::min<int64_t>(u.width - column, V * kLanes), V * kLanes);
  }
  for_row_groups(rows.end - rows.begin, [&](int64_t group, auto count) {
    constexpr int R = count;
    const Targets<R> to(c, u, rows.begin + group);
    for (int r = 0; r < R; ++r) prefetch(to.sum[r] + column, V * kLanes);
    const float* h = widened(widened_rows, c.h + (rows.begin + group) * c.G, R * c.G);
    Vector product[R][V];
    multiply(
        product, c.G, [&](int r, int64_t k) { return h[r * c.G + k]; },
        [&](int64_t k) { return panel + k * V * kLanes; });
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        float* sum = to.sum[r] + column + v * kLanes;
        store(sum, load(sum) + to.weight[r] * product[r][v]);
      }
    }
  });
}

// sum[token] += Σ_j (weight·h[row, j])·w_j for R rows and the J cells from m on, over all columns of the unit
template <int R, int J, class T>
void add_few_cells(const Combination<T>& c, const Unit& u, int64_t row, int64_t m) {
  const Targets<R> to(c, u, row);
  const T* w = c.w + m * c.D + u.d;
  float h[R][J];
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < J; ++j) h[r][j] = to.weight[r] * static_cast<float>(c.h[(row + r) * c.G + m % c.G + j]);
  }
  int64_t e = 0;
  for (; e + kLanes <= u.width; e += kLanes) {
    Vector w_e[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) w_e[j] = load(w + j * c.D + e);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      Vector sum = load(to.sum[r] + e);
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) sum += h[r][j] * w_e[j];
      store(to.sum[r] + e, sum);
    }
  }
  for (; e < u.width; ++e) {
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < J; ++j) to.sum[r][e] += h[r][j] * static_cast<float>(w[j * c.D + e]);
    }
  }
}

template <int J, class T>
void add_few_cells(const Combination<T>& c, const Unit& u, const Rows& rows, int64_t cell) {
  const int64_t m = rows.block * c.G + cell;
  int64_t row = rows.begin;
  for (; row + 4 <= rows.end; row += 4) add_few_cells<4, J>(c, u, row, m);
  for (; row < rows.end; ++row) add_few_cells<1, J>(c, u, row, m);
}

template <class T>
void add_block(const Combination<T>& c, const Unit& u, const Rows& rows) {
  if (c.G <= kFewCells) {
    int64_t j = 0;
    for (; j + 4 <= c.G; j += 4) add_few_cells<4>(c, u, rows, j);
    for (; j + 2 <= c.G; j += 2) add_few_cells<2>(c, u, rows, j);
    for (; j < c.G; ++j) add_few_cells<1>(c, u, rows, j);
    return;
  }
  for (int64_t column = 0; column < u.width; column += kWidth) {
    with_constant<kVectors>(vectors_of(std::min(kWidth, u.width - column)),
                            [&](auto vectors) { add_panel<vectors>(c, u, rows, column); });
  }
}

// y = sum + bias (+ y)
template <class T>
void finish(const Combination<T>& c, const Unit& u) {
  for (int64_t n = u.first; n < u.last; ++n) {
    const float* sum = u.sum + (n - u.first) * u.stride();
    T* y = c.y + n * c.D + u.d;
    const bool accumulate = c.accumulate == Accumulate::kYes;
#pragma omp simd
    for (int64_t e = 0; e < u.width; ++e) {
      const float bias = c.bias != nullptr ? c.bias[u.d + e] : 0.0f;
      y[e] = sum[e] + bias + (accumulate ? static_cast<float>(y[e]) : 0.0f);
    }
  }
}

template <class T>
void combine_unit(const Combination<T>& c, Unit u) {
  thread_local Scratch memory;
  const int64_t floats = (u.last - u.first) * u.stride(), chunk = u.first / c.rows.chunk;
  u.sum = static_cast<float*>(memory.get(sizeof(float) * floats));
  std::fill_n(u.sum, floats, 0.0f);
  for (int64_t i = 0; i < c.rows.blocks; ++i) {
    const int32_t *begin = c.rows.order + c.rows.first(chunk, i), *end = c.rows.order + c.rows.last(chunk, i);
    if (c.rows.chunk > kTokens) {  // a part of the chunk: the choices of a block ascend
      begin = std::lower_bound(begin, end, u.first * c.rows.per_token);
      end = std::lower_bound(begin, end, u.last * c.rows.per_token);
    }
    if (begin < end) add_block(c, u, {i, begin - c.rows.order, end - c.rows.order});
  }
  finish(c, u);
}

// Units of work are ranges of the tokens of a chunk, times slices of columns: each adds its blocks in order.
template <class T>
void combine(const Combination<T>& c) {
  const BlockRows& rows = c.rows;
  const int64_t parts = (std::min(rows.chunk, rows.tokens) + kTokens - 1) / kTokens;
  const int64_t columns = rows.chunks() * parts < 4 ? kWidth : kColumns;
  const int64_t slices = (c.D + columns - 1) / columns;
  parallel_chunks(rows.chunks() * parts * slices, 1, [&](int64_t index, int64_t) {
    const int64_t d = index % slices * columns, part = index / slices % parts, chunk = index / slices / parts;
    const int64_t first = chunk * rows.chunk + part * kTokens;
    const int64_t last = std::min({rows.tokens, (chunk + 1) * rows.chunk, first + kTokens});
    if (first < last) combine_unit(c, {.first = first, .last = last, .d = d, .width = std::min(columns, c.D - d)});
  });
}

}  // namespace

void block_combine(Stream&, Tensor y, const Tensor& h, const Tensor& weights, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing, Accumulate accumulate) {
  const BlockRows rows(routing);
  const int64_t G = h.cols(), D = y.cols();
  with_float_type(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_combine(y.data<T>(), h.data<T>(), weights.data_or_null<T>(), w.data<T>(), bias.data_or_null<T>(), rows,
                         accumulate, G, D);
    } else {
      combine(Combination<T>{y.data<T>(), h.data<T>(), weights.data_or_null<float>(), w.data<T>(),
                             bias.data_or_null<float>(), rows, accumulate, G, D});
    }
  });
}

}  // namespace sffn::cpu
