// What attention forward and backward share: fp32 tiles of 64 queries × 64 keys, and the products between them.
// Scores are held transposed, keys down and queries across the lanes of a vector, so that maxima, sums and exponentials
// of softmax need no reduction across lanes, and so that K and V serve as they lie in memory.
#pragma once
#include "kernels/cpu/random_bits.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/types.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace sffn::cpu::attention {

#if defined(__AVX512F__)
inline constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
inline constexpr int64_t kLanes = 8;
#else
inline constexpr int64_t kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

inline constexpr int64_t kTile = 64;   // queries, and keys, of a tile
inline constexpr int64_t kStrip = 16;  // on the diagonal, products are cut to the visible part in steps of kStrip

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The fp32 working memory of one thread, handed out in pieces of a multiple of 16 floats: each begins on a cache line.
class Pieces {
 public:
  explicit Pieces(int64_t floats) {
    thread_local Scratch memory;
    next_ = static_cast<float*>(memory.get(static_cast<size_t>(floats) * sizeof(float)));
  }
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += floats;
    return piece;
  }

 private:
  float* next_;
};

// The left factor of a product: element (m, k) is data[m·row + k·column].
struct Left {
  const float* data;
  int64_t row, column;
};

// c[kRows, kVectors·kLanes] = or += a·b over `depth`, summed in registers from zero.
template <int kRows, int kVectors>
inline void multiply_block(float* c, int64_t c_stride, Left a, const float* b, int64_t b_stride, int64_t depth,
                           bool accumulate) {
  Vector total[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = *reinterpret_cast<const Vector*>(b + k * b_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float left = a.data[r * a.row + k * a.column];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) total[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vector* to = reinterpret_cast<Vector*>(c + r * c_stride + v * kLanes);
      *to = accumulate ? *to + total[r][v] : total[r][v];
    }
  }
}

inline constexpr int kBlockRows = 6;
inline constexpr int kBlockVectors = kLanes == 16 ? 4 : 2;  // kBlockRows·kBlockVectors sums fit the vector registers

template <int kRows, int kVectors = kBlockVectors>
void multiply_rows(float* c, int64_t c_stride, Left a, const float* b, int64_t b_stride, int64_t vectors, int64_t depth,
                   bool accumulate) {
  for (; vectors >= kVectors; vectors -= kVectors) {
    multiply_block<kRows, kVectors>(c, c_stride, a, b, b_stride, depth, accumulate);
    c += kVectors * kLanes, b += kVectors * kLanes;
  }
  if constexpr (kVectors > 1) {
    if (vectors > 0) multiply_rows<kRows, kVectors - 1>(c, c_stride, a, b, b_stride, vectors, depth, accumulate);
  }
}

// c[rows, columns] = or += a[rows, depth]·b[depth, columns]; columns is a multiple of kStrip. Every element is one
// chain of multiply-adds over the depth, whatever the sizes.
inline void multiply(float* c, int64_t c_stride, Left a, const float* b, int64_t b_stride, int64_t rows,
                     int64_t columns, int64_t depth, bool accumulate) {
  const auto step = [&]<int kRows>(std::integral_constant<int, kRows>) {
    for (; rows >= kRows; rows -= kRows) {
      multiply_rows<kRows>(c, c_stride, a, b, b_stride, columns / kLanes, depth, accumulate);
      c += kRows * c_stride, a.data += kRows * a.row;
    }
  };
  step(std::integral_constant<int, kBlockRows>());
  step(std::integral_constant<int, 2>());
  step(std::integral_constant<int, 1>());
}

// Queries [q0, q0 + queries) against keys [k0, k0 + keys) of a sequence.
struct Tile {
  int64_t q0, queries, k0, keys;
  bool diagonal() const { return q0 == k0; }
  int64_t lanes() const { return round_up(queries, kStrip); }
};

// scores[key, query] = rows[key]·columns_t[:, query], only where the key is not beyond every query of its strip.
inline void multiply_scores(float* scores, const float* rows, int64_t width, const float* columns_t, int64_t depth,
                            const Tile& tile) {
  const int64_t step = tile.diagonal() ? kStrip : kTile;
  for (int64_t j = 0; j < tile.keys; j += step) {
    const int64_t first = tile.diagonal() ? j : 0;
    multiply(scores + j * kTile + first, kTile, {rows + j * width, width, 1}, columns_t + first, kTile,
             std::min(step, tile.keys - j), tile.lanes() - first, depth, false);
  }
}

// by_query[query, :] += Σ_key scores[key, query]·rows[key, :]
inline void add_over_keys(float* by_query, const float* scores, const float* rows, int64_t width, const Tile& tile) {
  const int64_t step = tile.diagonal() ? kStrip : kTile;
  for (int64_t i = 0; i < tile.queries; i += step) {
    const int64_t keys = tile.diagonal() ? std::min(tile.keys, i + kStrip) : tile.keys;
    multiply(by_query + i * width, width, {scores + i, 1, kTile}, rows, width, std::min(step, tile.queries - i), width,
             keys, true);
  }
}

// by_key[key, :] += Σ_query scores[key, query]·rows[query, :]
inline void add_over_queries(float* by_key, const float* scores, const float* rows, int64_t width, const Tile& tile) {
  const int64_t step = tile.diagonal() ? kStrip : kTile;
  for (int64_t j = 0; j < tile.keys; j += step) {
    const int64_t first = tile.diagonal() ? j : 0;
    multiply(by_key + j * width, width, {scores + j * kTile + first, kTile, 1}, rows + first * width, width,
             std::min(step, tile.keys - j), width, tile.queries - first, true);
  }
}

// tile[r, :] = scale·source[r, 0:columns], widened to fp32, zeros from columns to width.
template <class T>
void load_rows(float* tile, int64_t width, const T* source, int64_t stride, int64_t rows, int64_t columns,
               float scale) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = source + r * stride;
    float* to = tile + r * width;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) to[c] = scale * static_cast<float>(from[c]);
    for (int64_t c = columns; c < width; ++c) to[c] = 0;
  }
}

// As load_rows, and the lines after the last row are zero up to a multiple of kStrip; returns tile_t[c, r] = tile[r, c]
// as well, kTile to a line.
template <class T>
void load_transposed(float* tile_t, float* tile, int64_t width, const T* source, int64_t stride, int64_t rows,
                     int64_t columns, float scale) {
  typedef float Quad __attribute__((vector_size(16), aligned(sizeof(float))));
  typedef int32_t Places __attribute__((vector_size(16)));
  const int64_t lanes = round_up(rows, kStrip);
  load_rows(tile, width, source, stride, rows, columns, scale);
  std::fill(tile + rows * width, tile + lanes * width, 0.0f);
  for (int64_t c = 0; c < columns; c += 4) {
    for (int64_t r = 0; r < lanes; r += 4) {
      Quad row[4];
      for (int64_t n = 0; n < 4; ++n) row[n] = *reinterpret_cast<const Quad*>(tile + (r + n) * width + c);
      const Quad low01 = __builtin_shuffle(row[0], row[1], Places{0, 4, 1, 5});
      const Quad high01 = __builtin_shuffle(row[0], row[1], Places{2, 6, 3, 7});
      const Quad low23 = __builtin_shuffle(row[2], row[3], Places{0, 4, 1, 5});
      const Quad high23 = __builtin_shuffle(row[2], row[3], Places{2, 6, 3, 7});
      float* to = tile_t + c * kTile + r;
      *reinterpret_cast<Quad*>(to) = __builtin_shuffle(low01, low23, Places{0, 1, 4, 5});
      *reinterpret_cast<Quad*>(to + kTile) = __builtin_shuffle(low01, low23, Places{2, 3, 6, 7});
      *reinterpret_cast<Quad*>(to + 2 * kTile) = __builtin_shuffle(high01, high23, Places{0, 1, 4, 5});
      *reinterpret_cast<Quad*>(to + 3 * kTile) = __builtin_shuffle(high01, high23, Places{2, 3, 6, 7});
    }
  }
}

// to[c] = scale·from[c], rounded to the activation type.
template <class T>
void store_row(T* to, const float* from, int64_t columns, float scale) {
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) to[c] = scale * from[c];
}

// The first visible key of each of 64 queries: which tiles of keys they see, and which of these need masking.
struct Visibility {
  int32_t first[kTile];
  int64_t lowest = 0, highest = 0;

  Visibility(const int32_t* segment_start, int64_t q0, int64_t queries) {
    for (int64_t i = 0; i < kTile; ++i) {
      first[i] = segment_start == nullptr ? 0 : segment_start[q0 + std::min(i, queries - 1)];
    }
    lowest = *std::min_element(first, first + kTile);
    highest = *std::max_element(first, first + kTile);
  }
  int64_t first_tile() const { return lowest / kTile * kTile; }
  bool masks(const Tile& tile) const { return tile.diagonal() || highest > tile.k0; }
};

// scores[key, query] = value where the query does not see the key.
inline void mask_scores(float* scores, const Visibility& visible, const Tile& tile, float value) {
  for (int64_t j = 0; j < tile.keys; ++j) {
    const int32_t key = static_cast<int32_t>(tile.k0 + j), query = static_cast<int32_t>(tile.q0);
    float* line = scores + j * kTile;
    const int32_t lanes = static_cast<int32_t>(tile.lanes());
#pragma omp simd
    for (int32_t i = 0; i < lanes; ++i) {
      const bool seen = (visible.first[i] <= key) & (key <= query + i);
      line[i] = seen ? line[i] : value;
    }
  }
}

// factors[key, query] = 0 or 1/(1-p): what dropout multiplies a probability by. row is the number of the tile's first
// query among the rows of all heads and sequences.
inline void dropout_factors(float* factors, const Dropout& dropout, int64_t row, int64_t time, const Tile& tile) {
  const float kept = static_cast<float>(1 / (1 - dropout.probability));
  const uint32_t threshold = drop_threshold(dropout.probability);
  uint32_t bits[kTile];
  for (int64_t i = 0; i < tile.queries; ++i) {
    const int64_t first = dropout.draws.first_index + (row + i) * time + tile.k0;
    fill_random_bits(bits, dropout.draws.key, static_cast<uint64_t>(first), tile.keys);
    for (int64_t j = 0; j < tile.keys; ++j) factors[j * kTile + i] = (bits[j] >> 8) < threshold ? 0.0f : kept;
  }
}

}  // namespace sffn::cpu::attention
