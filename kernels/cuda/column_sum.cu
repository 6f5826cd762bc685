// out[c] += Σ_r x[r,c]                                                        out [C] f32  x [R,C] f32 or bf16
// A warp has as many columns as its lanes load at once, a block a range of their rows whose length depends on R alone:
// each of its warps sums every 8th row, eight loads at a time, then the 8 sums are added in order. Another kernel adds
// the ranges in order.
#include "kernels/cuda/add_partials.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kWarps = 8, kLoads = 8;
constexpr int64_t kMostRanges = 128;

// partial[range, c] = Σ of the rows of range blockIdx.x / strips. For four blocks a multiprocessor, because for more
// the compiler would ask for a load only where it is added.
template <int kCount, class T>
__global__ void __launch_bounds__(32 * kWarps, 4)
    column_sum_kernel(float* partial, const T* x, int64_t R, int64_t C, int64_t range, unsigned strips) {
  __shared__ float of_warp[kWarps][kCount][32];
  const int64_t i = blockIdx.x / strips;
  const int64_t c = (int64_t{blockIdx.x % strips} * 32 + threadIdx.x) * kCount;
  float sum[kCount] = {};
  const auto add = [&](const Pack<T, kCount>& row) {
    SFFN_UNROLL for (int e = 0; e < kCount; ++e) sum[e] += to_float(row.at[e]);
  };
  const auto row_at = [&](int64_t r) { return *reinterpret_cast<const Pack<T, kCount>*>(x + r * C + c); };
  if (c < C) {
    int64_t r = i * range + threadIdx.y;
    const int64_t last = (i + 1) * range < R ? (i + 1) * range : R;
    for (; r + (kLoads - 1) * kWarps < last; r += kLoads * kWarps) {
      Pack<T, kCount> rows[kLoads];
      SFFN_UNROLL for (int n = 0; n < kLoads; ++n) rows[n] = row_at(r + n * kWarps);
      SFFN_UNROLL for (int n = 0; n < kLoads; ++n) add(rows[n]);
    }
    for (; r < last; r += kWarps) add(row_at(r));
  }
  SFFN_UNROLL for (int e = 0; e < kCount; ++e) of_warp[threadIdx.y][e][threadIdx.x] = sum[e];
  __syncthreads();
  // Warp w adds up elements w, w + 8, … of each lane.
  for (int e = static_cast<int>(threadIdx.y); e < kCount; e += kWarps) {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += of_warp[w][e][threadIdx.x];
    if (c < C) partial[i * C + c + e] = total;
  }
}

}  // namespace

void column_sum(Stream& stream, Tensor out, const Tensor& x) {
  const int64_t R = x.rows(), C = x.cols();
  if (R == 0) return;
  constexpr int64_t kAtOnce = kWarps * kLoads;
  const int64_t range = (R + kMostRanges * kAtOnce - 1) / (kMostRanges * kAtOnce) * kAtOnce;
  const int64_t ranges = blocks_for(R, range);
  auto* partial = workspace<float>(stream, ranges * C);
  with_activation_type("column_sum", x, [&]<class T>(T) {
    const auto run = [&]<int kCount>(std::integral_constant<int, kCount>) {
      const unsigned strips = blocks_for(C, 32 * kCount);
      launch(stream, column_sum_kernel<kCount, T>, {static_cast<unsigned>(ranges * strips), dim3(32, kWarps)},
             Work{bytes_of(x) + bytes_for<float>(ranges * C)}, partial, x.data<T>(), R, C, range, strips);
    };
    constexpr int kCount = kPackCount<T>;
    packs_fit(C, kCount, x.data<T>()) ? run(std::integral_constant<int, kCount>())
                                      : run(std::integral_constant<int, 1>());
  });
  add_partials(stream, out, Tensor(), partial, ranges, C);
}

}  // namespace sffn::cuda
