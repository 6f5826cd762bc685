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

constexpr int64_t kTokens = 2048;  // of a unit of work: its sums, 512 KiB, stay in the cache of a core

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

// Tokens [first, last) of one chunk and `width` columns from d on.
struct Unit {
  int64_t first, last, d, width;
};

// sum[token, :] += weight·h[row]·w_i for sorted rows [begin, end) of block i
template <int V, class T>
void add_block(const Combination<T>& c, const Unit& u, float* sum, int64_t i, int64_t begin, int64_t end) {
  thread_local Scratch panel_memory, row_memory;
  auto* panel = static_cast<float*>(panel_memory.get(sizeof(float) * c.G * V * kLanes));
  auto* widened_rows = static_cast<float*>(row_memory.get(sizeof(float) * c.G * kRows));
  for (int64_t j = 0; j < c.G; ++j) {
    widen(panel + j * V * kLanes, c.w + (i * c.G + j) * c.D + u.d, u.width, V * kLanes);
  }
  for_row_groups(end - begin, [&](int64_t group, auto count) {
    constexpr int R = count;
    const int64_t row = begin + group;
    const float* h = widened(widened_rows, c.h + row * c.G, R * c.G);
    Vector product[R][V];
    multiply(
        product, c.G, [&](int r, int64_t k) { return h[r * c.G + k]; },
        [&](int64_t k) { return panel + k * V * kLanes; });
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int32_t choice = c.rows.order[row + r];
      const float weight = c.weights != nullptr ? c.weights[choice] : 1.0f;
      float* to = sum + (choice / c.rows.per_token - u.first) * V * kLanes;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(to + v * kLanes, load(to + v * kLanes) + weight * product[r][v]);
    }
  });
}

// y = sum + bias (+ y)
template <class T>
void finish(const Combination<T>& c, const Unit& u, const float* sum, int64_t stride) {
  for (int64_t n = u.first; n < u.last; ++n) {
    const float* from = sum + (n - u.first) * stride;
    T* to = c.y + n * c.D + u.d;
    const bool accumulate = c.accumulate == Accumulate::kYes;
#pragma omp simd
    for (int64_t e = 0; e < u.width; ++e) {
      const float start =
          (c.bias != nullptr ? c.bias[u.d + e] : 0.0f) + (accumulate ? static_cast<float>(to[e]) : 0.0f);
      to[e] = from[e] + start;
    }
  }
}

template <int V, class T>
void combine_unit(const Combination<T>& c, const Unit& u) {
  thread_local Scratch memory;
  const int64_t count = (u.last - u.first) * V * kLanes, b = c.rows.per_token, chunk = u.first / c.rows.chunk;
  auto* sum = static_cast<float*>(memory.get(sizeof(float) * count));
  std::fill_n(sum, count, 0.0f);
  const bool whole = u.first % c.rows.chunk == 0 && u.last == std::min(c.rows.tokens, u.first + c.rows.chunk);
  for (int64_t i = 0; i < c.rows.blocks; ++i) {
    const int32_t *begin = c.rows.order + c.rows.first(chunk, i), *end = c.rows.order + c.rows.last(chunk, i);
    if (!whole) {  // the tokens of a block ascend
      begin = std::lower_bound(begin, end, u.first * b);
      end = std::lower_bound(begin, end, u.last * b);
    }
    if (begin < end) add_block<V>(c, u, sum, i, begin - c.rows.order, end - c.rows.order);
  }
  finish(c, u, sum, V * kLanes);
}

// Units of work are ranges of the tokens of a chunk, times slices of columns: each adds its blocks in order.
template <class T>
void combine(const Combination<T>& c) {
  const BlockRows& rows = c.rows;
  const int64_t slices = (c.D + kWidth - 1) / kWidth,
                parts = (std::min(rows.chunk, rows.tokens) + kTokens - 1) / kTokens;
  parallel_chunks(rows.chunks() * parts * slices, 1, [&](int64_t index, int64_t) {
    const int64_t d = index % slices * kWidth, part = index / slices % parts, chunk = index / slices / parts;
    const int64_t chunk_last = std::min(rows.tokens, (chunk + 1) * rows.chunk);
    const int64_t first = chunk * rows.chunk + part * kTokens;
    const Unit unit{first, std::min(chunk_last, first + kTokens), d, std::min(kWidth, c.D - d)};
    if (unit.first >= unit.last) return;
    with_constant<kVectors>(vectors_of(unit.width), [&](auto vectors) { combine_unit<vectors>(c, unit); });
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
