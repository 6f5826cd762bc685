// out[n] = tokens[ids[n]] + positions_table[positions[n]]      out [N,D] act  tokens [Vp,D] act  ids, positions [N] i32
// A warp takes a row.
//
// dtokens[ids[n]] += dout[n];  dpositions[positions[n]] += dout[n], in order of n        dtokens, dpositions [·,D] acc
// Tokens are ordered by row of the table. A block adds the runs of equal rows in a tile of kTile of them and adds each
// sum to the table; what continues a run of the tile before goes to `rests`, and the block of the first such tile adds
// those of the run in order. So a row that half of all tokens name costs no more than others, and no sum depends on
// what ran first.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/order_by_key.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTile = 64;  // ordered tokens of a block of the backward pass

template <bool kAligned, class T>
__global__ void embedding_forward_kernel(T* out, const T* tokens, const int32_t* ids, const T* table,
                                         const int32_t* positions, int64_t N, int64_t D) {
  constexpr int kCount = kPackCount<T>;
  const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (n >= N) return;
  const T* token = tokens + ids[n] * D;
  const T* position = table != nullptr ? table + positions[n] * D : nullptr;
  for (int64_t d = threadIdx.x % 32 * kCount; d < D; d += 32 * kCount) {
    float sum[kCount];
    load_floats<kAligned>(sum, token + d, D - d);
    if (position != nullptr) {
      float place[kCount];
      load_floats<kAligned>(place, position + d, D - d);
      for (int i = 0; i < kCount; ++i) sum[i] += place[i];
    }
    store_floats<kAligned>(out + n * D + d, sum, D - d);
  }
}

// Whether the tile's first run began in a tile before.
__device__ __forceinline__ bool continues(const int32_t* keys, int64_t tile) {
  return tile > 0 && keys[tile * kTile - 1] == keys[tile * kTile];
}

// table[row] += Σ of the tile's rows that begin a run here;  rests[tile] = Σ of those that continue one
template <bool kAligned, class T>
__global__ void add_runs_kernel(float* table, float* rests, const T* rows, KeyOrder order, int64_t N, int64_t D) {
  constexpr int kCount = kPackCount<T>;
  __shared__ int32_t key[kTile], place[kTile];
  const int64_t tile = blockIdx.x, first = tile * kTile;
  const int count = static_cast<int>(N - first < kTile ? N - first : kTile);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    key[i] = order.keys[first + i];
    place[i] = order.places[first + i];
  }
  __syncthreads();
  const bool is_rest = continues(order.keys, tile);
  const int64_t step = int64_t{blockDim.x} * kCount;
  for (int64_t d = int64_t{threadIdx.x} * kCount; d < D; d += step) {
    for (int begin = 0, end = 0; begin < count; begin = end) {
      float sum[kCount] = {};
      for (; end < count && key[end] == key[begin]; ++end) {
        float row[kCount];
        load_floats<kAligned>(row, rows + place[end] * D + d, D - d);
        for (int i = 0; i < kCount; ++i) sum[i] += row[i];
      }
      if (begin == 0 && is_rest) {
        store_floats<kAligned>(rests + tile * D + d, sum, D - d);
        continue;
      }
      float* to = table + key[begin] * D + d;
      float old[kCount];
      load_floats<kAligned>(old, to, D - d);
      for (int i = 0; i < kCount; ++i) sum[i] += old[i];
      store_floats<kAligned>(to, sum, D - d);
    }
  }
}

// table[row] += rests of the tiles, in order, that continue the run of `row`: by the block of the first of them.
template <bool kAligned>
__global__ void add_rests_kernel(float* table, const float* rests, const int32_t* keys, int64_t tiles, int64_t D) {
  constexpr int kCount = kPackCount<float>;
  const int64_t first = blockIdx.x, row = keys[first * kTile];
  if (!continues(keys, first)) return;
  if (keys[(first - 1) * kTile] == row && continues(keys, first - 1)) return;
  int64_t last = first, beyond = tiles;  // the last tile that begins with `row`
  while (beyond - last > 1) {
    const int64_t middle = (last + beyond) / 2;
    (keys[middle * kTile] == row ? last : beyond) = middle;
  }
  const int64_t step = int64_t{blockDim.x} * kCount;
  for (int64_t d = int64_t{threadIdx.x} * kCount; d < D; d += step) {
    float sum[kCount];
    load_floats<kAligned>(sum, table + row * D + d, D - d);
    for (int64_t tile = first; tile <= last; ++tile) {
      float rest[kCount];
      load_floats<kAligned>(rest, rests + tile * D + d, D - d);
      for (int i = 0; i < kCount; ++i) sum[i] += rest[i];
    }
    store_floats<kAligned>(table + row * D + d, sum, D - d);
  }
}

// As many as a row has packs.
unsigned threads_for(int64_t D, int count) {
  return static_cast<unsigned>(std::clamp<int64_t>((D + 32 * count - 1) / (32 * count) * 32, 32, kThreads));
}

// Different rows of a table that N uniform choices name, expected.
double distinct_rows(int64_t N, const Tensor& table) {
  const auto rows = static_cast<double>(table.shape()[0]);
  return rows * -std::expm1(-static_cast<double>(N) / rows);
}

template <class T>
void add_by_row(Stream& stream, Tensor table, const Tensor& dout, const Tensor& index) {
  const int64_t N = dout.rows(), D = dout.cols(), tiles = blocks_for(N, kTile);
  if (N == 0 || D == 0) return;
  const int64_t of_rests = (tiles * D + 3) / 4 * 4;  // what follows stays aligned
  auto* rests = static_cast<float*>(native(stream).workspace(static_cast<size_t>(of_rests) * sizeof(float) +
                                                             static_cast<size_t>(order_scratch(N)) * sizeof(int32_t)));
  auto* scratch = reinterpret_cast<int32_t*>(rests + of_rests);
  const KeyOrder order = order_by_key(stream, scratch, index.data<int32_t>(), N, table.shape()[0]);
  float* to = table.data<float>();
  const bool aligned = rows_are_packs<T>(D, {to, dout.raw()});
  with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
    const auto grid = static_cast<unsigned>(tiles);
    const Work runs{bytes_of(dout) + bytes_for<int32_t>(2 * N) + distinct_rows(N, table) * bytes_for<float>(2 * D)};
    launch(stream, add_runs_kernel<kAligned, T>, {grid, threads_for(D, kPackCount<T>)}, runs, to, rests, dout.data<T>(),
           order, N, D);
    launch(stream, add_rests_kernel<kAligned>, {grid, threads_for(D, kPackCount<float>)},
           Work{bytes_for<int32_t>(2 * tiles)}, to, rests, order.keys, tiles, D);
  });
}

}  // namespace

void embedding_forward(Stream& stream, Tensor out, const Tensor& tokens, const Tensor& ids,
                       const Tensor& positions_table, const Tensor& positions) {
  const int64_t N = out.rows(), D = out.cols();
  const int32_t* places = positions_table.defined() ? positions.data<int32_t>() : nullptr;
  double rows_read = distinct_rows(N, tokens);
  if (positions_table.defined()) rows_read += distinct_rows(N, positions_table);
  with_activation_type("embedding_forward", out, [&]<class T>(T) {
    const bool aligned = rows_are_packs<T>(D, {out.raw(), tokens.raw(), positions_table.raw()});
    with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
      launch(stream, embedding_forward_kernel<kAligned, T>, {blocks_for(N, kWarps), kThreads},
             Work{bytes_of(out, ids, positions) + rows_read * bytes_for<T>(D)}, out.data<T>(), tokens.data<T>(),
             ids.data<int32_t>(), positions_table.data_or_null<T>(), places, N, D);
    });
  });
}

void embedding_backward(Stream& stream, Tensor dtokens, Tensor dpositions, const Tensor& dout, const Tensor& ids,
                        const Tensor& positions) {
  with_activation_type("embedding_backward", dout, [&]<class T>(T) {
    add_by_row<T>(stream, dtokens, dout, ids);
    if (dpositions.defined()) add_by_row<T>(stream, dpositions, dout, positions);
  });
}

}  // namespace sffn::cuda
