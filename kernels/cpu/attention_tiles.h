// What attention forward and backward share: fp32 tiles of 64 queries × 64 keys, and the products between them.
// Scores are held transposed, keys down and queries across the lanes of a vector, so that maxima, sums and exponentials
// of softmax need no reduction across lanes, and so that K and V serve as they lie in memory.
#pragma once
#include "core/random.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/types.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
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

// fp32 working memory of one thread. It grows to the largest layer once; then steps allocate nothing.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    thread_local std::vector<CacheLine> memory;
    if (static_cast<int64_t>(memory.size()) * 16 < floats) memory.resize(floats / 16);
    next_ = memory.data()->x;
  }
  // `floats` is a multiple of 16, so that every piece begins on a cache line.
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += floats;
    return piece;
  }

 private:
  struct alignas(64) CacheLine {
    float x[16];
  };
  float* next_;
};

// A row-major matrix in fp32; `stride` elements from a row to the next.
struct Matrix {
  float* data;
  int64_t stride;
};
// The left factor of a product: element (m, k) is data[m·row + k·column].
struct Left {
  const float* data;
  int64_t row, column;
};

// c[kRows, kVectors·kLanes] (+)= a·b over `depth`, in registers.
template <int kRows, int kVectors>
inline void multiply_block(float* c, int64_t c_stride, Left a, const float* b, int64_t b_stride, int64_t depth,
                           bool accumulate) {
  Vector total[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      total[r][v] = accumulate ? *reinterpret_cast<const Vector*>(c + r * c_stride + v * kLanes) : Vector{};
    }
  }
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
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Vector*>(c + r * c_stride + v * kLanes) = total[r][v];
  }
}

inline constexpr int kBlockRows = 6;
inline constexpr int kBlockVectors = kLanes == 16 ? 4 : 2;

template <int kRows>
void multiply_rows(float* c, int64_t c_stride, Left a, const float* b, int64_t b_stride, int64_t vectors, int64_t depth,
                   bool accumulate) {
  int64_t v = 0;
  for (; v + kBlockVectors <= vectors; v += kBlockVectors) {
    multiply_block<kRows, kBlockVectors>(c + v * kLanes, c_stride, a, b + v * kLanes, b_stride, depth, accumulate);
  }
  if (kBlockVectors > 2 && v + 2 <= vectors) {
    multiply_block<kRows, 2>(c + v * kLanes, c_stride, a, b + v * kLanes, b_stride, depth, accumulate);
    v += 2;
  }
  if (v < vectors) {
    multiply_block<kRows, 1>(c + v * kLanes, c_stride, a, b + v * kLanes, b_stride, depth, accumulate);
  }
}

// c[rows, columns] (+)= a[rows, depth]·b[depth, columns]; columns is a multiple of kStrip. One order of summation
// whatever the sizes: each element is a chain of multiply-adds over the depth.
inline void multiply(Matrix c, Left a, Matrix b, int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
  const int64_t vectors = columns / kLanes;
  int64_t r = 0;
  for (; r + kBlockRows <= rows; r += kBlockRows) {
    multiply_rows<kBlockRows>(c.data + r * c.stride, c.stride, {a.data + r * a.row, a.row, a.column}, b.data, b.stride,
                              vectors, depth, accumulate);
  }
  for (; r + 2 <= rows; r += 2) {
    multiply_rows<2>(c.data + r * c.stride, c.stride, {a.data + r * a.row, a.row, a.column}, b.data, b.stride, vectors,
                     depth, accumulate);
  }
  if (r < rows) {
    multiply_rows<1>(c.data + r * c.stride, c.stride, {a.data + r * a.row, a.row, a.column}, b.data, b.stride, vectors,
                     depth, accumulate);
  }
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
    const int64_t lane = tile.diagonal() ? j : 0;
    multiply({scores + j * kTile + lane, kTile}, {rows + j * width, width, 1},
             {const_cast<float*>(columns_t) + lane, kTile}, std::min(step, tile.keys - j), tile.lanes() - lane, depth,
             false);
  }
}

// by_query[query, :] += Σ_key scores[key, query]·rows[key, :]
inline void add_over_keys(float* by_query, const float* scores, const float* rows, int64_t width, const Tile& tile) {
  const int64_t step = tile.diagonal() ? kStrip : kTile;
  for (int64_t i = 0; i < tile.queries; i += step) {
    const int64_t keys = tile.diagonal() ? std::min(tile.keys, i + kStrip) : tile.keys;
    multiply({by_query + i * width, width}, {scores + i, 1, kTile}, {const_cast<float*>(rows), width},
             std::min(step, tile.queries - i), width, keys, true);
  }
}

// by_key[key, :] += Σ_query scores[key, query]·rows[query, :]
inline void add_over_queries(float* by_key, const float* scores, const float* rows, int64_t width, const Tile& tile) {
  const int64_t step = tile.diagonal() ? kStrip : kTile;
  for (int64_t j = 0; j < tile.keys; j += step) {
    const int64_t first = tile.diagonal() ? j : 0;
    multiply({by_key + j * width, width}, {scores + j * kTile + first, kTile, 1},
             {const_cast<float*>(rows) + first * width, width}, std::min(step, tile.keys - j), width,
             tile.queries - first, true);
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

// tile_t[c, r] = rows[r, c], kTile lanes a line, zeros from count to lanes.
inline void transpose(float* tile_t, const float* rows, int64_t width, int64_t count, int64_t lanes, int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < count; ++r) tile_t[c * kTile + r] = rows[r * width + c];
    for (int64_t r = count; r < lanes; ++r) tile_t[c * kTile + r] = 0;
  }
}

// to[c] = scale·from[c], rounded to the activation type.
template <class T>
void store_row(T* to, const float* from, int64_t columns, float scale) {
#pragma omp simd
  for (int64_t c = 0; c < columns; ++c) to[c] = static_cast<T>(scale * from[c]);
}

// The first visible key of each query of a tile row. first_of_tile .. : which key tiles are seen, which need masking.
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

// factors[key, query] = 0 or 1/(1-p): what dropout multiplies a probability by. row0 is the dropout index of the tile's
// first query and key 0; the next query is `time` further.
inline void dropout_factors(float* factors, const Dropout& dropout, uint64_t row0, int64_t time, const Tile& tile) {
  const float kept = static_cast<float>(1 / (1 - dropout.probability));
  const uint32_t threshold = static_cast<uint32_t>(std::ceil(dropout.probability * 0x1p24));
  uint32_t bits[kTile + 8];
  for (int64_t i = 0; i < tile.queries; ++i) {
    const uint64_t first = row0 + static_cast<uint64_t>(i * time + tile.k0);
    const uint64_t block = first / 4, blocks = (first % 4 + static_cast<uint64_t>(tile.keys) + 3) / 4;
    for (uint64_t n = 0; n < blocks; ++n) {
      const Random4 four = philox(dropout.key, block + n);
      std::memcpy(bits + 4 * n, four.data(), sizeof(four));
    }
    for (int64_t j = 0; j < tile.keys; ++j) {
      factors[j * kTile + i] = (bits[first % 4 + static_cast<uint64_t>(j)] >> 8) < threshold ? 0.0f : kept;
    }
  }
}

}  // namespace sffn::cpu::attention
