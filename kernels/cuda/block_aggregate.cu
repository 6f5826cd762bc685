// out[i] = aggregate of the keys of block i, element by element      out [B,D] f32  keys, values [B·G,D] f32 or bf16
//   mean, min, max, mean of |·|; l2_mean: Σ keys/‖key‖ /G; value_weighted: Σ‖v_j‖k_j/Σ‖v_j‖; first_pc: first_pc.cuh
// dkeys += gradient through mean: dy/G, or l2_mean: (dy - k̂⟨k̂, dy⟩)/(‖k‖G)                        dkeys [B·G,D] f32
// Aggregates are sums over rows: a block of threads has 32 columns of one block of keys, each of its warps every 8th
// row. Weights of rows, and the gradient, are made by a team of threads a row (rows.cuh); squares in double, so that no
// norm over- or underflows.
#include "kernels/cuda/first_pc.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/ops.h"

#include <limits>

namespace sffn::cuda {
namespace {

constexpr int kColumns = 32, kRowsAtOnce = 8;

// 1/‖k‖, and 0 for a zero row.
__device__ __forceinline__ double inverse_of(double norm) { return norm == 0 ? 0 : 1 / norm; }

// Σ row[d]·other[d], in double
template <class Team, int kPack, class T, class U>
__device__ double inner_product(const T* row, const U* other, int64_t D) {
  double sum = 0;
  for_packs<Team, kPack>(D, [&](int64_t d) {
    const auto x = load_pack<kPack>(row + d);
    const auto y = load_pack<kPack>(other + d);
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      sum += static_cast<double>(to_float(x.at[k])) * static_cast<double>(to_float(y.at[k]));
  });
  return team_sum<Team>(sum);
}

// weights[r] = ‖rows[r]‖, or its inverse
template <class T, class Team, int kPack>
__global__ void row_norm_kernel(float* weights, const T* rows, int64_t count, int64_t D, bool inverse) {
  const int64_t r = Team::row();
  if (r >= count) return;
  const T* row = rows + r * D;
  const double norm = sqrt(inner_product<Team, kPack>(row, row, D));
  if (Team::rank() == 0) weights[r] = static_cast<float>(inverse ? inverse_of(norm) : norm);
}

// The weights of every block divided by their sum; 1/G where that is 0. A warp has a block of keys.
__global__ void share_weights_kernel(float* weights, int64_t B, int64_t G) {
  const int64_t i = WarpTeam::row();
  if (i >= B) return;
  double total = 0;
  for_packs<WarpTeam, 1>(G, [&](int64_t j) { total += static_cast<double>(weights[i * G + j]); });
  total = warp_sum(total);
  for_packs<WarpTeam, 1>(G, [&](int64_t j) {
    const double own = static_cast<double>(weights[i * G + j]);
    weights[i * G + j] = static_cast<float>(total == 0 ? 1 / static_cast<double>(G) : own / total);
  });
}

// What an aggregate does with the keys of a column. NaN stays NaN.
struct Total {
  static constexpr float kFirst = 0;
  __device__ float operator()(float total, float x) const { return total + x; }
};
struct AbsoluteTotal {
  static constexpr float kFirst = 0;
  __device__ float operator()(float total, float x) const { return total + fabsf(x); }
};
struct Least {
  static constexpr float kFirst = std::numeric_limits<float>::infinity();
  __device__ float operator()(float least, float x) const { return x < least || x != x ? x : least; }
};
struct Greatest {
  static constexpr float kFirst = -std::numeric_limits<float>::infinity();
  __device__ float operator()(float most, float x) const { return x > most || x != x ? x : most; }
};

// out[i,d] = scale·fold over j of weights[j]·keys[j,d]; weights null: 1.
template <class T, class Fold>
__global__ void fold_rows_kernel(float* out, const T* keys, const float* weights, int64_t G, int64_t D, int64_t strips,
                                 float scale, Fold fold) {
  __shared__ float partial[kRowsAtOnce][kColumns];
  const int64_t i = blockIdx.x / strips, d = blockIdx.x % strips * kColumns + threadIdx.x;
  const T* column = keys + i * G * D + d;
  float own = Fold::kFirst;
  for (int64_t j = threadIdx.y; j < G && d < D; j += kRowsAtOnce) {
    const float key = to_float(column[j * D]);
    own = fold(own, weights == nullptr ? key : weights[i * G + j] * key);
  }
  partial[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.y != 0 || d >= D) return;
  for (int y = 1; y < kRowsAtOnce; ++y) own = fold(own, partial[y][threadIdx.x]);
  out[i * D + d] = own * scale;
}

template <class T, class Team, int kPack>
__global__ void block_aggregate_backward_kernel(float* dkeys, const float* dout, const T* keys, int64_t rows, int64_t G,
                                                int64_t D, bool l2) {
  const int64_t j = Team::row();
  if (j >= rows) return;
  const T* key = keys + j * D;
  const float* dy = dout + j / G * D;
  float along = 0, scale = 1.0f / static_cast<float>(G);
  if (l2) {
    const double inverse = inverse_of(sqrt(inner_product<Team, kPack>(key, key, D)));
    along = static_cast<float>(inner_product<Team, kPack>(key, dy, D) * inverse * inverse);
    scale *= static_cast<float>(inverse);
  }
  for_packs<Team, kPack>(D, [&](int64_t d) {
    const auto x = load_pack<kPack>(key + d);
    const auto gradient = load_pack<kPack>(dy + d);
    auto to = load_pack<kPack>(dkeys + j * D + d);
#pragma unroll
    for (int k = 0; k < kPack; ++k) to.at[k] += scale * (gradient.at[k] - along * to_float(x.at[k]));
    store_pack(dkeys + j * D + d, to);
  });
}

template <class T>
void make_norms(Stream& stream, float* weights, const T* rows, int64_t count, int64_t D, bool inverse) {
  with_rows(count, D, is_aligned(rows), [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
    launch(stream, row_norm_kernel<T, Team, kPack>, cut.shape,
           Work{bytes_for<T>(count * D) + bytes_for<float>(count), flops_of(count, D)}, weights, rows, count, D,
           inverse);
  });
}

template <class T>
void forward(Stream& stream, float* out, const T* keys, const T* values, int64_t B, int64_t G, int64_t D,
             BlockAggregate aggregate) {
  const int64_t strips = (D + kColumns - 1) / kColumns;
  const auto fold = [&]<class Fold>(Fold by, const float* weights, float scale) {
    const Work work{bytes_for<T>(B * G * D) + bytes_for<float>(B * D + (weights != nullptr ? B * G : 0))};
    launch(stream, fold_rows_kernel<T, Fold>, {blocks_for(B * strips, 1), dim3(kColumns, kRowsAtOnce)}, work, out, keys,
           weights, G, D, strips, scale, by);
  };
  const float mean = 1.0f / static_cast<float>(G);
  switch (aggregate) {
    case BlockAggregate::kMean:
      return fold(Total(), nullptr, mean);
    case BlockAggregate::kMeanAbs:
      return fold(AbsoluteTotal(), nullptr, mean);
    case BlockAggregate::kMin:
      return fold(Least(), nullptr, 1.0f);
    case BlockAggregate::kMax:
      return fold(Greatest(), nullptr, 1.0f);
    case BlockAggregate::kL2Mean: {
      auto* weights = workspace<float>(stream, B * G);
      make_norms(stream, weights, keys, B * G, D, true);
      return fold(Total(), weights, mean);
    }
    case BlockAggregate::kValueWeighted: {
      auto* weights = workspace<float>(stream, B * G);
      make_norms(stream, weights, values, B * G, D, false);
      launch(stream, share_weights_kernel, {blocks_for(B, WarpTeam::kRowsPerBlock), kRowThreads},
             Work{bytes_for<float>(2 * B * G)}, weights, B, G);
      return fold(Total(), weights, 1.0f);
    }
    case BlockAggregate::kFirstPc:
      return first_components(stream, out, keys, B, G, D);
  }
}

}  // namespace

void block_aggregate_forward(Stream& stream, Tensor out, const Tensor& keys, const Tensor& values,
                             BlockAggregate aggregate) {
  const int64_t B = out.shape()[0], G = keys.shape()[0] / B, D = keys.cols();
  if (out.numel() == 0) return;
  with_activation_type("block_aggregate_forward", keys, [&]<class T>(T) {
    forward(stream, out.data<float>(), keys.data<T>(), values.data_or_null<T>(), B, G, D, aggregate);
  });
}

void block_aggregate_backward(Stream& stream, Tensor dkeys, const Tensor& dout, const Tensor& keys,
                              BlockAggregate aggregate) {
  const int64_t rows = keys.shape()[0], D = keys.cols();
  const bool l2 = aggregate == BlockAggregate::kL2Mean;
  if (dout.numel() == 0 || (!l2 && aggregate != BlockAggregate::kMean)) return;
  const Work work{bytes_of(dkeys, dkeys, dout) + (l2 ? bytes_of(keys) : 0), l2 ? 2 * flops_of(rows, D) : 0};
  with_activation_type("block_aggregate_backward", keys, [&]<class T>(T) {
    with_rows(rows, D, is_aligned(dkeys.raw()) && is_aligned(dout.raw()) && is_aligned(keys.raw()),
              [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
                launch(stream, block_aggregate_backward_kernel<T, Team, kPack>, cut.shape, work, dkeys.data<float>(),
                       dout.data<float>(), keys.data<T>(), rows, rows / dout.shape()[0], D, l2);
              });
  });
}

}  // namespace sffn::cuda
