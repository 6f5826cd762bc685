#include "kernels/cpu/block_tiles.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

using namespace blocks;

constexpr int64_t kAhead = 64;    // elements of the next rows to ask for; the hardware sees the rest coming
constexpr int64_t kDotCells = 8;  // up to here dot products along D are faster than columns of cells

template <class T>
struct Projection {
  T* z;
  const T *x, *w;
  const float* bias;
  BlockRows rows;
  int64_t G, D;
};

// panel[d, j] = w[cell + j, d], zero in columns from `cells` on: kWidth columns at most, a whole number of vectors.
template <class T>
void transpose(float* panel, const T* w, int64_t cells, int64_t padded, int64_t D) {
  int64_t d = 0;
  for (; d + kLanes <= D; d += kLanes) {
    for (int64_t j = 0; j < padded; j += kLanes) {
      Vector square[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) square[r] = j + r < cells ? load(w + (j + r) * D + d) : Vector{};
      transpose_square(square);
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) store(panel + (d + r) * padded + j, square[r]);
    }
  }
  for (; d < D; ++d) {
    for (int64_t j = 0; j < padded; ++j) panel[d * padded + j] = j < cells ? static_cast<float>(w[j * D + d]) : 0.0f;
  }
}

// Cells [cell, cell + cells) of sorted rows [first, last), which are of one block.
template <int V, class T>
void project_panel(const Projection<T>& p, int64_t first, int64_t last, int64_t block, int64_t cell, int64_t cells) {
  thread_local Scratch panel_memory, row_memory;
  auto* panel = static_cast<float*>(panel_memory.get(sizeof(float) * p.D * V * kLanes));
  auto* widened_rows = static_cast<float*>(row_memory.get(sizeof(float) * p.D * kRows));
  transpose(panel, p.w + (block * p.G + cell) * p.D, cells, V * kLanes, p.D);
  const int64_t used = p.rows.used();
  for_row_groups(last - first, [&](int64_t group, auto count) {
    constexpr int R = count;
    const float* x[R];
    for (int r = 0; r < R; ++r) {
      x[r] = widened(widened_rows + r * p.D, p.x + p.rows.token(first + group + r) * p.D, p.D);
    }
    for (int64_t row = first + group + R; row < std::min(used, first + group + R + kRows); ++row) {
      prefetch(p.x + p.rows.token(row) * p.D, std::min(p.D, kAhead));
    }
    Vector sum[R][V];
    multiply(
        sum, p.D, [&](int r, int64_t k) { return x[r][k]; }, [&](int64_t k) { return panel + k * V * kLanes; });
    for (int r = 0; r < R; ++r) {
      float values[V * kLanes];
      for (int v = 0; v < V; ++v) store(values + v * kLanes, sum[r][v]);
      T* z = p.z + (first + group + r) * p.G + cell;
      const float* bias = p.bias != nullptr ? p.bias + block * p.G + cell : nullptr;
#pragma omp simd
      for (int64_t j = 0; j < cells; ++j) z[j] = values[j] + (bias != nullptr ? bias[j] : 0.0f);
    }
  });
}

// z of R rows and J cells by dot products, a vector of each at a time.
template <int R, int J, class T>
void project_dots(const Projection<T>& p, int64_t row, int64_t m) {
  const T *x[R], *w = p.w + m * p.D;
  for (int r = 0; r < R; ++r) x[r] = p.x + p.rows.token(row + r) * p.D;
  Vector sum[R][J] = {};
  int64_t d = 0;
  for (; d + kLanes <= p.D; d += kLanes) {
    Vector w_d[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) w_d[j] = load(w + j * p.D + d);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vector x_d = load(x[r] + d);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[r][j] += x_d * w_d[j];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < J; ++j) {
      float lanes[kLanes];
      store(lanes, sum[r][j]);
      fold_lanes<kLanes / 2>(lanes);
      float total = lanes[0];
      for (int64_t e = d; e < p.D; ++e) total += static_cast<float>(x[r][e]) * static_cast<float>(w[j * p.D + e]);
      p.z[(row + r) * p.G + m % p.G + j] = T(total + (p.bias != nullptr ? p.bias[m + j] : 0.0f));
    }
  }
}

template <int R, class T>
void project_dots(const Projection<T>& p, int64_t row, int64_t block) {
  int64_t j = 0;
  for (; j + 4 <= p.G; j += 4) project_dots<R, 4>(p, row, block * p.G + j);
  for (; j + 2 <= p.G; j += 2) project_dots<R, 2>(p, row, block * p.G + j);
  for (; j < p.G; ++j) project_dots<R, 1>(p, row, block * p.G + j);
}

// All rows [first, last) of one block for cells [cell, cell + cells).
template <class T>
void project_block(const Projection<T>& p, int64_t first, int64_t last, int64_t block, int64_t cell, int64_t cells) {
  if (p.G <= kDotCells) {
    for (; first + 4 <= last; first += 4) project_dots<4>(p, first, block);
    for (; first < last; ++first) project_dots<1>(p, first, block);
    return;
  }
  with_constant<kVectors>(vectors_of(cells),
                          [&](auto vectors) { project_panel<vectors>(p, first, last, block, cell, cells); });
}

// Units of work are ranges of sorted rows, whatever their blocks, times panels of cells: equal shares also where all
// tokens choose one block.
template <class T>
void project(const Projection<T>& p) {
  const int64_t used = p.rows.used(), pairs = p.rows.chunks() * p.rows.blocks;
  std::fill(p.z + used * p.G, p.z + p.rows.choices() * p.G, T());
  const int64_t range = std::max<int64_t>(2048, 16384 / p.G), ranges = (used + range - 1) / range;
  const int64_t panels = p.G <= kDotCells ? 1 : (p.G + kWidth - 1) / kWidth;
  parallel_chunks(ranges * panels, 1, [&](int64_t unit, int64_t) {
    const int64_t cell = unit % panels * kWidth, cells = std::min(kWidth, p.G - cell);
    const int64_t last = std::min(used, (unit / panels + 1) * range);
    int64_t first = unit / panels * range;
    const int32_t* offsets = p.rows.offsets;
    for (int64_t q = std::upper_bound(offsets, offsets + pairs + 1, first) - offsets - 1; first < last; ++q) {
      const int64_t end = std::min<int64_t>(last, offsets[q + 1]);
      if (first < end) project_block(p, first, end, q % p.rows.blocks, cell, cells);
      first = end;
    }
  });
}

}  // namespace

void block_project(Stream&, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = z.cols(), D = x.cols();
  with_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_project(z.data<T>(), x.data<T>(), w.data<T>(), bias.data_or_null<T>(), rows, G, D);
    } else {
      project(Projection<T>{z.data<T>(), x.data<T>(), w.data<T>(), bias.data_or_null<float>(), rows, G, D});
    }
  });
}

void block_project_activation(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                              const Tensor& gate, const BlockRouting& routing, Activation f) {
  block_project(stream, z, x, w, bias, routing);
  activation_forward(stream, h, z, gate, f);
}

}  // namespace sffn::cpu
