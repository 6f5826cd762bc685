// Products of gathered rows with the blocks of a table, in fp32. The left factor of a product is read one element at a
// time, from wherever its rows lie, and the right one a vector at a time: so rows are multiplied where they are, and
// only the part of a table's block that a unit of work needs is copied.
#pragma once
#include "core/dtype.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace sffn::cpu::blocks {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16, kVectors = 4;
#elif defined(__AVX__)
inline constexpr int kLanes = 8, kVectors = 2;
#else
inline constexpr int kLanes = 4, kVectors = 2;
#endif
inline constexpr int kRows = 6;                       // with kVectors: as many sums as registers hold
inline constexpr int64_t kWidth = kVectors * kLanes;  // columns of a tile
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline Vector load(const bfloat16* from) {
  typedef uint16_t Half __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(sizeof(uint16_t))));
  typedef uint32_t Word __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  const Word word = __builtin_convertvector(*reinterpret_cast<const Half*>(from), Word) << 16;
  return std::bit_cast<Vector>(word);
}
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// Asks for the cache lines of `count` elements that will be read soon: rows of tokens lie where no hardware guesses.
template <class T>
inline void prefetch(const T* from, int64_t count) {
  const auto* bytes = reinterpret_cast<const char*>(from);
  for (int64_t at = 0; at < count * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(bytes + at);
}

inline int vectors_of(int64_t columns) { return static_cast<int>((columns + kLanes - 1) / kLanes); }

// to [columns] = from, then zeros up to `padded`
template <class T>
void widen(float* to, const T* from, int64_t columns, int64_t padded) {
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) to[j] = static_cast<float>(from[j]);
  for (int64_t j = columns; j < padded; ++j) to[j] = 0;
}

// `count` rows at `from` as fp32 [count, columns]: where they lie, or copied to `memory`.
template <class T>
const float* widened(float* memory, const T* from, int64_t count) {
  if constexpr (std::is_same_v<T, float>) {
    return from;
  } else {
    widen(memory, from, count, count);
    return memory;
  }
}

// Rows and columns of a square of kLanes exchanged: log2(kLanes) rounds, in which round s exchanges blocks of s.
template <int kStep = kLanes / 2>
inline void transpose_square(Vector (&rows)[kLanes]) {
  typedef int32_t Mask __attribute__((vector_size(kLanes * sizeof(int32_t))));
  Mask low, high;
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) {
    const bool second = (l / kStep) % 2 == 1;
    low[l] = second ? l - kStep + kLanes : l;
    high[l] = second ? l + kLanes : l + kStep;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) {
    if ((r / kStep) % 2 == 1) continue;
    const Vector a = rows[r], b = rows[r + kStep];
    rows[r] = __builtin_shuffle(a, b, low);
    rows[r + kStep] = __builtin_shuffle(a, b, high);
  }
  if constexpr (kStep > 1) transpose_square<kStep / 2>(rows);
}

// sum[r][v] = Σ_{k < depth} left(r, k)·right(k)[v·kLanes …]
template <int R, int V, class Left, class Right>
inline void multiply(Vector (&sum)[R][V], int64_t depth, const Left& left, const Right& right) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = Vector{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    const auto* b = right(k);
    Vector b_k[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b_k[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float a_rk = left(r, k);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += a_rk * b_k[v];
    }
  }
}

// f with the constants <kFirst> and <kSecond> equal to first and second, each of 1 … its maximum.
template <int kMax, class F>
inline void with_constant(int value, F&& f) {
  if constexpr (kMax == 1) {
    f(std::integral_constant<int, 1>());
  } else {
    value == kMax ? f(std::integral_constant<int, kMax>()) : with_constant<kMax - 1>(value, f);
  }
}

// body(first, constant number of rows) for all of `count` rows, kRows at a time.
template <class Body>
inline void for_row_groups(int64_t count, Body&& body) {
  int64_t first = 0;
  for (; first + kRows <= count; first += kRows) body(first, std::integral_constant<int, kRows>());
  if constexpr (kRows > 1) {
    if (first < count) {
      with_constant<kRows - 1>(static_cast<int>(count - first), [&](auto rows) { body(first, rows); });
    }
  }
}

}  // namespace sffn::cpu::blocks
