#include "kernels/cpu/block_tiles.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>
#include <array>

namespace sffn::cpu {
namespace {

using namespace blocks;

constexpr int64_t kDepth = 128;   // rows summed in registers at once
constexpr int64_t kCells = 1024;  // cells of a unit of work: of many small blocks, or a part of a large one
constexpr int64_t kAhead = 64;    // elements of rows to come to ask for; the hardware sees the rest coming

template <class T>
struct Gradient {
  float* dw;
  const T* h;
  const float* weights;
  const T* x;
  BlockRows rows;
  int64_t G, D;
};

// Cells [cell, cell + cells) of blocks [begin, end), columns [d, d_end).
struct Unit {
  int64_t begin, end, cell, cells, d, d_end;
};

// At most kDepth sorted rows: the coefficients weight·h [depth, cells], and where the rows of x begin.
template <class T>
struct Factors {
  int64_t depth;
  float* left;
  std::array<const T*, kDepth> right;
};

template <class T>
void gather(Factors<T>& f, const Gradient<T>& g, const Unit& u, int64_t first) {
  const int64_t used = g.rows.used();
  for (int64_t k = 0; k < f.depth; ++k) {
    const int32_t choice = g.rows.order[first + k];
    const float weight = g.weights != nullptr ? g.weights[choice] : 1.0f;
    const T* h = g.h + (first + k) * g.G + u.cell;
#pragma omp simd
    for (int64_t j = 0; j < u.cells; ++j) f.left[k * u.cells + j] = weight * static_cast<float>(h[j]);
    f.right[k] = g.x + choice / g.rows.per_token * g.D;
    if (first + k + kDepth < used) {
      prefetch(g.x + g.rows.token(first + k + kDepth) * g.D + u.d, std::min(kAhead, u.d_end - u.d));
    }
  }
}

// dW_i[:, d …] += leftᵀ·right[:, d …] for V vectors, `width` columns
template <int V, class T>
void add_panel(const Gradient<T>& g, const Unit& u, const Factors<T>& f, int64_t i, int64_t d, int64_t width) {
  thread_local Scratch memory;
  std::array<const T*, kDepth> right;
  for (int64_t k = 0; k < f.depth; ++k) right[k] = f.right[k] + d;
  if (width < V * kLanes) {  // a vector would reach beyond the row
    auto* padded = static_cast<T*>(memory.get(sizeof(T) * kDepth * V * kLanes));
    std::fill_n(padded, f.depth * V * kLanes, T());
    for (int64_t k = 0; k < f.depth; ++k) {
      T* row = padded + k * V * kLanes;
      std::copy_n(std::exchange(right[k], row), width, row);
    }
  }
  for_row_groups(u.cells, [&](int64_t j, auto count) {
    constexpr int R = count;
    Vector sum[R][V];
    multiply(
        sum, f.depth, [&](int r, int64_t k) { return f.left[k * u.cells + j + r]; },
        [&](int64_t k) { return right[k]; });
    for (int r = 0; r < R; ++r) {
      float* dw = g.dw + (i * g.G + u.cell + j + r) * g.D + d;
      float values[V * kLanes];
      for (int v = 0; v < V; ++v) store(values + v * kLanes, sum[r][v]);
#pragma omp simd
      for (int64_t e = 0; e < width; ++e) dw[e] += values[e];
    }
  });
}

template <class T>
void add_rows(const Gradient<T>& g, const Unit& u, int64_t i, int64_t first, int64_t depth) {
  thread_local Scratch memory;
  Factors<T> factors;
  factors.depth = depth;
  factors.left = static_cast<float*>(memory.get(sizeof(float) * kDepth * u.cells));
  gather(factors, g, u, first);
  for (int64_t d = u.d; d < u.d_end; d += kWidth) {
    const int64_t width = std::min(kWidth, u.d_end - d);
    with_constant<kVectors>(vectors_of(width), [&](auto vectors) { add_panel<vectors>(g, u, factors, i, d, width); });
  }
}

template <class T>
void add_unit(const Gradient<T>& g, const Unit& u) {
  for (int64_t c = 0; c < g.rows.chunks(); ++c) {
    for (int64_t i = u.begin; i < u.end; ++i) {
      const int64_t last = g.rows.last(c, i);
      for (int64_t p = g.rows.first(c, i); p < last; p += kDepth) add_rows(g, u, i, p, std::min(kDepth, last - p));
    }
  }
}

// Units of work are ranges of cells; those with more than an eighth of all rows are cut by columns too, so that blocks
// that most tokens choose are shared by threads.
template <class T>
void weight_gradient(const Gradient<T>& g) {
  const BlockRows& rows = g.rows;
  const int64_t slices = (g.D + kWidth - 1) / kWidth, parts = (g.G + kCells - 1) / kCells;
  const int64_t blocks = std::max<int64_t>(1, kCells / g.G), ranges = (rows.blocks + blocks - 1) / blocks;
  parallel_chunks(ranges * parts * slices, 1, [&](int64_t index, int64_t) {
    const int64_t slice = index % slices, part = index / slices % parts, range = index / slices / parts;
    Unit unit{.begin = range * blocks,
              .end = std::min(rows.blocks, (range + 1) * blocks),
              .cell = part * kCells,
              .cells = std::min(kCells, g.G - part * kCells),
              .d = 0,
              .d_end = g.D};
    int64_t mine = 0;
    for (int64_t c = 0; c < rows.chunks(); ++c) mine += rows.last(c, unit.end - 1) - rows.first(c, unit.begin);
    if (mine > rows.used() / 8) {
      unit.d = slice * kWidth, unit.d_end = std::min(g.D, unit.d + kWidth);
    } else if (slice > 0) {
      return;
    }
    add_unit(g, unit);
  });
}

}  // namespace

void block_weight_gradient(Stream&, Tensor dw, const Tensor& h, const Tensor& weights, const Tensor& x,
                           const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = h.cols(), D = x.cols();
  with_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_weight_gradient(dw.data<T>(), h.data<T>(), weights.data_or_null<T>(), x.data<T>(), rows, G, D);
    } else {
      weight_gradient(
          Gradient<T>{dw.data<float>(), h.data<T>(), weights.data_or_null<float>(), x.data<T>(), rows, G, D});
    }
  });
}

}  // namespace sffn::cpu
