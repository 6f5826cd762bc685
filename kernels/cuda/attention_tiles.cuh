// What attention forward and backward share: tiles of rows of heads in shared memory, as floats, and the two products
// between them. 256 threads stand in a square of 16 × 16: thread (x, y) has columns x·kPer … of the scores of rows
// y·kPer …, and of sums over rows the columns 4x … 4x + 3 of each 64.
//
// Row r of a tile lies in line (r mod kPer)·16 + r / kPer, and lines are 4 floats longer than a multiple of 8, so that
// the 16 threads of a row, which read 16 bytes of 16 lines in turn, meet in no bank.
#pragma once
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/types.h"

#include <cfloat>
#include <cmath>

namespace sffn::cuda::attention {

inline constexpr int kSide = 16, kThreads = kSide * kSide;

// Of heads of up to kWidth columns: smaller tiles for wide heads, so that a block's fit the shared memory.
template <int kWidth>
struct Tiles {
  static constexpr int kPer = kWidth <= 128 ? 4 : 2;    // rows, and columns of scores, of a thread
  static constexpr int kTile = kSide * kPer;            // rows of a tile
  static constexpr int kScoreStride = kTile + 4;        // of the tile of scores
  static constexpr int kGroups = kWidth / (4 * kSide);  // of 64 columns
  using Scores = float[kPer][kPer];
  using Sums = float[kPer][4 * kGroups];

  static __device__ int line_of(int row) { return row % kPer * kSide + row / kPer; }
};

// The numbers of an AttentionShape that kernels use.
struct Heads {
  int64_t time;
  int heads, kv_heads, head_dim;
  int64_t qkv_width, out_width;
  int stride;  // of a line of a tile
  float scale;
  bool aligned;  // rows of heads are whole packs of 16 bytes

  Heads(const AttentionShape& s, bool rows_aligned)
      : time(s.time),
        heads(static_cast<int>(s.heads)),
        kv_heads(static_cast<int>(s.kv_heads)),
        head_dim(static_cast<int>(s.head_dim)),
        qkv_width(s.qkv_width()),
        out_width(s.out_width()),
        stride((head_dim + 7) / 8 * 8 + 4),
        scale(static_cast<float>(s.scale)),
        aligned(rows_aligned) {}

  __device__ int depth() const { return stride - 4; }  // head_dim to a multiple of 8
  __device__ int kv_head(int head) const { return head / (heads / kv_heads); }
  // Where the head's query, or the key/value head's key or value, of a token begins; and its output.
  __device__ int64_t query(int64_t token, int head) const { return token * qkv_width + int64_t{head} * head_dim; }
  __device__ int64_t key(int64_t token, int kv) const { return token * qkv_width + int64_t{heads + kv} * head_dim; }
  __device__ int64_t value(int64_t token, int kv) const { return key(token, kv) + int64_t{kv_heads} * head_dim; }
  __device__ int64_t out(int64_t token, int head) const { return token * out_width + int64_t{head} * head_dim; }
};

// FLOPs of one product between queries and what they see, of all heads: causal, in one segment.
inline double causal_flops(const AttentionShape& s) {
  return flops_of(s.batch * s.heads, s.time * (s.time + 1) / 2, s.head_dim);
}

// Bytes of shared memory of `tiles` tiles and one of scores.
template <int kWidth>
size_t shared_bytes(int tiles, const Heads& heads) {
  using T = Tiles<kWidth>;
  return static_cast<size_t>(tiles * T::kTile * heads.stride + T::kTile * T::kScoreStride) * sizeof(float);
}

__device__ __forceinline__ int thread_x() { return static_cast<int>(threadIdx.x % kSide); }
__device__ __forceinline__ int thread_y() { return static_cast<int>(threadIdx.x / kSide); }

// The sum, or another combination, over the 16 threads of a row.
template <class Op>
__device__ __forceinline__ float reduce_row(float value, Op op) {
  for (int lanes = kSide / 2; lanes > 0; lanes /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  return value;
}

// tile[row] = factor·source[row·step …], `count` rows; zeros in further rows, and beyond head_dim to a multiple of 8.
template <int kWidth, class T>
__device__ __forceinline__ void load_tile(float* tile, const Heads& heads, const T* source, int64_t step, int64_t count,
                                          float factor) {
  constexpr int kCount = 8;
  const int packs = heads.depth() / kCount;
  for (int item = static_cast<int>(threadIdx.x); item < Tiles<kWidth>::kTile * packs; item += kThreads) {
    const int row = item / packs, c = item % packs * kCount;
    float x[kCount] = {};
    if (row < count && heads.aligned) load_floats<true>(x, source + row * step + c, heads.head_dim - c);
    if (row < count && !heads.aligned) load_floats<false>(x, source + row * step + c, heads.head_dim - c);
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) x[i] *= factor;
    store_floats<true>(tile + Tiles<kWidth>::line_of(row) * heads.stride + c, x, kCount);
  }
}

__device__ __forceinline__ float4 four_at(const float* from) { return *reinterpret_cast<const float4*>(from); }

// s[i][j] = ⟨row y·kPer + i of a, row x·kPer + j of b⟩
template <int kWidth>
__device__ __forceinline__ void multiply_rows(typename Tiles<kWidth>::Scores& s, const float* a, const float* b,
                                              const Heads& heads) {
  constexpr int kPer = Tiles<kWidth>::kPer;
  const float *of_a = a + thread_y() * heads.stride, *of_b = b + thread_x() * heads.stride;
  SFFN_UNROLL for (int i = 0; i < kPer; ++i) { SFFN_UNROLL for (int j = 0; j < kPer; ++j) s[i][j] = 0; }
  for (int c = 0; c < heads.depth(); c += 4) {
    float4 rows[kPer], columns[kPer];
    SFFN_UNROLL for (int i = 0; i < kPer; ++i) rows[i] = four_at(of_a + i * kSide * heads.stride + c);
    SFFN_UNROLL for (int j = 0; j < kPer; ++j) columns[j] = four_at(of_b + j * kSide * heads.stride + c);
    SFFN_UNROLL for (int i = 0; i < kPer; ++i) {
      SFFN_UNROLL for (int j = 0; j < kPer; ++j) {
        s[i][j] += rows[i].x * columns[j].x;
        s[i][j] += rows[i].y * columns[j].y;
        s[i][j] += rows[i].z * columns[j].z;
        s[i][j] += rows[i].w * columns[j].w;
      }
    }
  }
}

// The tile of scores, by row and column: what each thread has of it.
template <int kWidth>
__device__ __forceinline__ void store_scores(float* scores, const typename Tiles<kWidth>::Scores& s) {
  using T = Tiles<kWidth>;
  SFFN_UNROLL for (int i = 0; i < T::kPer; ++i) {
    float* to = scores + (thread_y() * T::kPer + i) * T::kScoreStride + thread_x() * T::kPer;
    store_floats<true>(to, s[i], T::kPer);
  }
}

// sums[i][·] += Σ_r scores[row y·kPer + i, r]·x[row r, ·]
template <int kWidth>
__device__ __forceinline__ void add_rows(typename Tiles<kWidth>::Sums& sums, const float* scores, const float* x,
                                         const Heads& heads) {
  using T = Tiles<kWidth>;
  const float* of_row = scores + thread_y() * T::kPer * T::kScoreStride;
  int column[T::kGroups];
  SFFN_UNROLL for (int g = 0; g < T::kGroups; ++g) {  // beyond the head: any column, for a sum that is not stored
    const int c = 4 * thread_x() + 4 * kSide * g;
    column[g] = c < heads.depth() ? c : 0;
  }
  for (int r = 0; r < T::kTile; r += T::kPer) {
    float p[T::kPer][T::kPer];
    SFFN_UNROLL for (int i = 0; i < T::kPer; ++i) load_floats<true>(p[i], of_row + i * T::kScoreStride + r, T::kPer);
    SFFN_UNROLL for (int k = 0; k < T::kPer; ++k) {
      const float* line = x + (k * kSide + r / T::kPer) * heads.stride;
      SFFN_UNROLL for (int g = 0; g < T::kGroups; ++g) {
        const float4 at = four_at(line + column[g]);
        SFFN_UNROLL for (int i = 0; i < T::kPer; ++i) {
          sums[i][4 * g] += p[i][k] * at.x;
          sums[i][4 * g + 1] += p[i][k] * at.y;
          sums[i][4 * g + 2] += p[i][k] * at.z;
          sums[i][4 * g + 3] += p[i][k] * at.w;
        }
      }
    }
  }
}

// to[0 … head_dim) = factor·sums of the thread's row i
template <int kWidth, class T>
__device__ __forceinline__ void store_row(T* to, const typename Tiles<kWidth>::Sums& sums, int i, float factor,
                                          const Heads& heads) {
  SFFN_UNROLL for (int g = 0; g < Tiles<kWidth>::kGroups; ++g) {
    const int c = 4 * thread_x() + 4 * kSide * g;
    float out[4];
    SFFN_UNROLL for (int k = 0; k < 4; ++k) out[k] = factor * sums[i][4 * g + k];
    if (heads.aligned) {
      store_floats<true>(to + c, out, heads.head_dim - c);
    } else {
      store_floats<false>(to + c, out, heads.head_dim - c);
    }
  }
}

// f(kWidth) for heads of that many columns or fewer.
template <class F>
void with_width(const char* op, int64_t head_dim, F&& f) {
  if (head_dim <= 64) return f(std::integral_constant<int, 64>());
  if (head_dim <= 128) return f(std::integral_constant<int, 128>());
  if (head_dim <= kMostCudaHeadDim) return f(std::integral_constant<int, kMostCudaHeadDim>());
  throw RunError(op,
                 cat("is given heads of ", head_dim, " columns; on a GPU up to ", kMostCudaHeadDim, " are possible"));
}

}  // namespace sffn::cuda::attention
