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

template <class T>
struct Gradient {
  float* dw;
  const T* h;
  const float* weights;
  const T* x;
  BlockRows rows;
  int64_t G, D;
};

// Cells [cell, cell + cells) of blocks [begin, end), `width` columns from d on.
struct Unit {
  int64_t begin, end, cell, cells, d, width;
};

// dW_i += Σ weight·h[p]ᵀ·x[token] over at most kDepth sorted rows [first, first + depth)
template <int V, class T>
void add_rows(const Gradient<T>& g, const Unit& u, int64_t i, int64_t first, int64_t depth) {
  thread_local Scratch left_memory, right_memory;
  auto* left = static_cast<float*>(left_memory.get(sizeof(float) * kDepth * u.cells));
  std::array<const T*, kDepth> right;
  for (int64_t k = 0; k < depth; ++k) {
    const int32_t choice = g.rows.order[first + k];
    const float weight = g.weights != nullptr ? g.weights[choice] : 1.0f;
    const T* h = g.h + (first + k) * g.G + u.cell;
#pragma omp simd
    for (int64_t j = 0; j < u.cells; ++j) left[k * u.cells + j] = weight * static_cast<float>(h[j]);
    right[k] = g.x + choice / g.rows.per_token * g.D + u.d;
  }
  if (u.width < V * kLanes) {  // a vector would reach beyond the row
    auto* padded = static_cast<T*>(right_memory.get(sizeof(T) * kDepth * V * kLanes));
    std::fill_n(padded, depth * V * kLanes, T());
    for (int64_t k = 0; k < depth; ++k) {
      std::copy_n(std::exchange(right[k], padded + k * V * kLanes), u.width, padded + k * V * kLanes);
    }
  }
  for_row_groups(u.cells, [&](int64_t j, auto count) {
    constexpr int R = count;
    Vector sum[R][V];
    multiply(
        sum, depth, [&](int r, int64_t k) { return left[k * u.cells + j + r]; }, [&](int64_t k) { return right[k]; });
    for (int r = 0; r < R; ++r) {
      float* dw = g.dw + (i * g.G + u.cell + j + r) * g.D + u.d;
      float values[V * kLanes];
      for (int v = 0; v < V; ++v) store(values + v * kLanes, sum[r][v]);
#pragma omp simd
      for (int64_t e = 0; e < u.width; ++e) dw[e] += values[e];
    }
  });
}

template <class T>
void add_unit(const Gradient<T>& g, const Unit& u) {
  with_constant<kVectors>(vectors_of(u.width), [&](auto vectors) {
    for (int64_t c = 0; c < g.rows.chunks(); ++c) {
      for (int64_t i = u.begin; i < u.end; ++i) {
        const int64_t last = g.rows.last(c, i);
        for (int64_t p = g.rows.first(c, i); p < last; p += kDepth) {
          add_rows<vectors>(g, u, i, p, std::min(kDepth, last - p));
        }
      }
    }
  });
}

template <class T>
void weight_gradient(const Gradient<T>& g) {
  const int64_t slices = (g.D + kWidth - 1) / kWidth, parts = (g.G + kCells - 1) / kCells;
  const int64_t blocks = std::max<int64_t>(1, kCells / g.G), ranges = (g.rows.blocks + blocks - 1) / blocks;
  parallel_chunks(ranges * parts * slices, 1, [&](int64_t index, int64_t) {
    const int64_t d = index % slices * kWidth, part = index / slices % parts, range = index / slices / parts;
    add_unit(g, {.begin = range * blocks,
                 .end = std::min(g.rows.blocks, (range + 1) * blocks),
                 .cell = part * kCells,
                 .cells = std::min(kCells, g.G - part * kCells),
                 .d = d,
                 .width = std::min(kWidth, g.D - d)});
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
