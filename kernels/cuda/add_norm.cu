// sum' = sum + pending;  LayerNorm: y = (sum' - mean)·rstd·w + b,  RMSNorm: y = sum'·rstd·w             of rows [N,D]
// dh += rstd·(g - mean(g) - x̂·mean(g·x̂)), g = dy·w, x̂ = (sum' - mean)·rstd; RMSNorm has no mean(g), and mean is 0
// dw += Σ_n dy·x̂;  db += Σ_n dy
//
// Rows of up to 1024 columns take a warp each, longer ones a block of 256 threads; a thread keeps 32 elements of the
// row in registers and reads what is beyond (rows of more than 8192) again. So memory is passed once: 8 bytes an
// element of bf16 forward, 8 backward.
//
// Backward, a block takes a range of rows whose length depends on N alone, sums their dw and db, and another kernel
// adds the blocks in order.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kKept = 32;  // elements of a row that a thread keeps
constexpr int64_t kShortRow = 32 * kKept;
constexpr int64_t kMostRanges = 512;  // of rows, in the backward pass

// How kRowThreads threads (a warp, or the block) share a row: element `first + i` of pack p, first = column(p).
template <class T, int kRowThreads>
struct Columns {
  static constexpr int kCount = kPackCount<T>, kPacks = kKept / kCount;
  static constexpr int kRows = kThreads / kRowThreads;
  static __device__ int column(int pack) {
    return (pack * kRowThreads + static_cast<int>(threadIdx.x % kRowThreads)) * kCount;
  }
  static __device__ float sum(float value) {
    if constexpr (kRowThreads == 32) {
      return warp_sum(value);
    } else {
      return block_sum(value);
    }
  }
};

template <bool kAligned, class T, int kRowThreads>
__global__ void add_norm_forward_kernel(T* sum_out, T* y, float* mean, float* rstd, const T* sum, const T* pending,
                                        const float* weight, const float* bias, int64_t N, int D, double eps) {
  using C = Columns<T, kRowThreads>;
  constexpr int kCount = C::kCount;
  const int64_t n = int64_t{blockIdx.x} * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (n >= N) return;
  float kept[C::kPacks][kCount];
  const auto read = [&](float(&x)[kCount], int c) {  // of sum', and stores it
    load_floats<kAligned>(x, sum + n * D + c, D - c);
    if (pending != nullptr) {
      float more[kCount];
      load_floats<kAligned>(more, pending + n * D + c, D - c);
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
        T rounded;
        store(rounded, x[i] + more[i]);
        x[i] = to_float(rounded);
      }
    }
    if (sum_out != nullptr) store_floats<kAligned>(sum_out + n * D + c, x, D - c);
  };
  const T* stored = pending != nullptr ? sum_out + n * D : sum + n * D;
  const auto each = [&](auto&& f) {
    SFFN_UNROLL for (int p = 0; p < C::kPacks; ++p) {
      if (C::column(p) < D) f(kept[p], C::column(p));
    }
    for (int p = C::kPacks; C::column(p) < D; ++p) {
      float x[kCount];
      load_floats<kAligned>(x, stored + C::column(p), D - C::column(p));
      f(x, C::column(p));
    }
  };
  SFFN_UNROLL for (int p = 0; p < C::kPacks; ++p) {
    if (C::column(p) < D) read(kept[p], C::column(p));
  }
  for (int p = C::kPacks; C::column(p) < D; ++p) {
    float x[kCount];
    read(x, C::column(p));
  }
  float mu = 0;
  if (mean != nullptr) {
    each([&](const float(&x)[kCount], int) {  // zeros beyond D
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) mu += x[i];
    });
    mu = C::sum(mu) / static_cast<float>(D);
  }
  float square = 0;
  each([&](const float(&x)[kCount], int c) {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) square += c + i < D ? (x[i] - mu) * (x[i] - mu) : 0.0f;
  });
  const float variance = C::sum(square) / static_cast<float>(D);
  const auto r = static_cast<float>(1 / sqrt(static_cast<double>(variance) + eps));
  each([&](const float(&x)[kCount], int c) {
    float w[kCount], b[kCount] = {}, out[kCount];
    load_floats<kAligned>(w, weight + c, D - c);
    if (bias != nullptr) load_floats<kAligned>(b, bias + c, D - c);
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) out[i] = (x[i] - mu) * r * w[i] + b[i];
    store_floats<kAligned>(y + n * D + c, out, D - c);
  });
  if (threadIdx.x % kRowThreads != 0) return;
  rstd[n] = r;
  if (mean != nullptr) mean[n] = mu;
}

struct NormRow {
  float mu, r;
};

// One pack of a row: g = dy·w and x̂.
template <bool kAligned, class T, int kCount>
__device__ __forceinline__ void load_gradient(float (&dy)[kCount], float (&g)[kCount], float (&xhat)[kCount],
                                              const T* dy_row, const T* sum_row, const float* weight, NormRow at, int c,
                                              int D) {
  load_floats<kAligned>(dy, dy_row + c, D - c);
  load_floats<kAligned>(xhat, sum_row + c, D - c);
  load_floats<kAligned>(g, weight + c, D - c);
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
    g[i] *= dy[i];
    xhat[i] = (xhat[i] - at.mu) * at.r;
  }
}

// The sums of the block's threads: a thread's own columns, or, of warps that share columns, in the order of warps.
template <class C>
__device__ __forceinline__ void store_totals(float* total_w, float* total_b, const float (&dw)[C::kPacks][C::kCount],
                                             const float (&db)[C::kPacks][C::kCount], int D) {
  if constexpr (C::kRows == 1) {
    SFFN_UNROLL for (int p = 0; p < C::kPacks; ++p) {
      store_floats<false>(total_w + C::column(p), dw[p], D - C::column(p));
      store_floats<false>(total_b + C::column(p), db[p], D - C::column(p));
    }
  } else {
    alignas(16) __shared__ float totals[2][kShortRow];
    for (int row = 0; row < C::kRows; ++row) {
      SFFN_UNROLL for (int p = 0; p < C::kPacks; ++p) {
        if (static_cast<int>(threadIdx.x) / 32 != row) continue;
        float w[C::kCount] = {}, b[C::kCount] = {};
        if (row > 0) load_floats<true>(w, totals[0] + C::column(p), C::kCount);
        if (row > 0) load_floats<true>(b, totals[1] + C::column(p), C::kCount);
        SFFN_UNROLL for (int i = 0; i < C::kCount; ++i) w[i] += dw[p][i], b[i] += db[p][i];
        store_floats<true>(totals[0] + C::column(p), w, C::kCount);
        store_floats<true>(totals[1] + C::column(p), b, C::kCount);
      }
      __syncthreads();
    }
    for (int c = static_cast<int>(threadIdx.x); c < D; c += kThreads) {
      total_w[c] = totals[0][c];
      total_b[c] = totals[1][c];
    }
  }
}

// dh of the rows of range blockIdx.x, and partial[range] = their dw, then their db [2, D].
template <bool kAligned, class T, int kRowThreads>
__global__ void add_norm_backward_kernel(T* dh, float* partial, const T* dy, const T* sum, const float* mean,
                                         const float* rstd, const float* weight, int64_t N, int D, int64_t range) {
  using C = Columns<T, kRowThreads>;
  constexpr int kCount = C::kCount;
  const int row_of_block = static_cast<int>(threadIdx.x) / kRowThreads;
  float* total_w = partial + int64_t{blockIdx.x} * 2 * D;
  float* total_b = total_w + D;
  float dw[C::kPacks][kCount] = {}, db[C::kPacks][kCount] = {};
  for (int p = C::kPacks; C::column(p) < D; ++p) {  // beyond the registers (a block a row): in memory
    const float zeros[kCount] = {};
    store_floats<false>(total_w + C::column(p), zeros, D - C::column(p));
    store_floats<false>(total_b + C::column(p), zeros, D - C::column(p));
  }
  const int64_t first = blockIdx.x * range, last = first + range < N ? first + range : N;
  for (int64_t n = first + row_of_block; n < last; n += C::kRows) {
    const NormRow at{mean != nullptr ? mean[n] : 0.0f, rstd[n]};
    float of_g = 0, of_gx = 0;
    float y[kCount], g[kCount], x[kCount];
    for (int c = C::column(0), p = 0; c < D; c = C::column(++p)) {
      load_gradient<kAligned>(y, g, x, dy + n * D, sum + n * D, weight, at, c, D);
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) of_g += g[i], of_gx += g[i] * x[i];
    }
    const float offset = mean != nullptr ? C::sum(of_g) / static_cast<float>(D) : 0.0f;
    const float projection = C::sum(of_gx) / static_cast<float>(D);
    const auto finish = [&](int c) {
      float h[kCount];
      load_gradient<kAligned>(y, g, x, dy + n * D, sum + n * D, weight, at, c, D);
      load_floats<kAligned>(h, dh + n * D + c, D - c);
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) h[i] += at.r * (g[i] - offset - x[i] * projection);
      store_floats<kAligned>(dh + n * D + c, h, D - c);
    };
    SFFN_UNROLL for (int p = 0; p < C::kPacks; ++p) {
      if (C::column(p) >= D) continue;
      finish(C::column(p));
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) dw[p][i] += y[i] * x[i], db[p][i] += y[i];
    }
    for (int p = C::kPacks; C::column(p) < D; ++p) {
      const int c = C::column(p);
      finish(c);
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
        if (c + i < D) total_w[c + i] += y[i] * x[i], total_b[c + i] += y[i];
      }
    }
  }
  store_totals<C>(total_w, total_b, dw, db, D);
}

constexpr int kColumns = 32, kPartialsAtOnce = 8;

// dweight[c] and dbias[c] += Σ over ranges of partial[range]: 8 sums of every 8th range, then those in order.
__global__ void add_partials_kernel(float* dweight, float* dbias, const float* partial, int64_t ranges, int D) {
  __shared__ float sums[kPartialsAtOnce][kColumns];
  const int64_t c = int64_t{blockIdx.x} * kColumns + threadIdx.x;  // of dweight, then of dbias
  float sum = 0;
  if (c < 2 * D) {
    for (int64_t i = threadIdx.y; i < ranges; i += kPartialsAtOnce) sum += partial[i * 2 * D + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= 2 * D) return;
  float total = 0;
  for (int i = 0; i < kPartialsAtOnce; ++i) total += sums[i][threadIdx.x];
  if (c < D) {
    dweight[c] += total;
  } else if (dbias != nullptr) {
    dbias[c - D] += total;
  }
}

// f(kRowThreads): a warp for rows that fit its registers, else the block.
template <class F>
void with_row_threads(int64_t D, F&& f) {
  if (D <= kShortRow) return f(std::integral_constant<int, 32>());
  f(std::integral_constant<int, kThreads>());
}

}  // namespace

void add_norm_forward(Stream& stream, Tensor sum_out, Tensor y, Tensor mean, Tensor rstd, const Tensor& sum,
                      const Tensor& pending, const Tensor& weight, const Tensor& bias, double eps) {
  const int64_t N = sum.rows(), D = sum.cols();
  with_activation_type("add_norm_forward", sum, [&]<class T>(T) {
    const T* in = sum.data<T>();
    T* out = sum_out.data_or_null<T>();
    if (!pending.defined() && out == in) out = nullptr;  // it is there
    const bool aligned = rows_are_packs<T>(D, {out, y.raw(), in, pending.raw(), weight.raw(), bias.raw()});
    const Work work{bytes_of(y, mean, rstd, sum, pending, weight, bias) + (out != nullptr ? bytes_of(sum_out) : 0)};
    with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
      with_row_threads(D, [&]<int kRowThreads>(std::integral_constant<int, kRowThreads>) {
        launch(stream, add_norm_forward_kernel<kAligned, T, kRowThreads>,
               {blocks_for(N, kThreads / kRowThreads), kThreads}, work, out, y.data<T>(), mean.data_or_null<float>(),
               rstd.data<float>(), in, pending.data_or_null<T>(), weight.data<float>(), bias.data_or_null<float>(), N,
               D, eps);
      });
    });
  });
}

void add_norm_backward(Stream& stream, Tensor dh, Tensor dweight, Tensor dbias, const Tensor& dy, const Tensor& sum,
                       const Tensor& mean, const Tensor& rstd, const Tensor& weight) {
  const int64_t N = dh.rows(), D = dh.cols();
  if (N == 0) return;
  const int64_t rows_at_once = D <= kShortRow ? kThreads / 32 : 1;
  const int64_t range = (N + kMostRanges * rows_at_once - 1) / (kMostRanges * rows_at_once) * rows_at_once;
  const int64_t ranges = blocks_for(N, range);
  auto* partial = workspace<float>(stream, ranges * 2 * D);
  const double of_partial = bytes_for<float>(ranges * 2 * D);
  with_activation_type("add_norm_backward", dh, [&]<class T>(T) {
    const bool aligned = rows_are_packs<T>(D, {dh.raw(), dy.raw(), sum.raw(), weight.raw()});
    with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
      with_row_threads(D, [&]<int kRowThreads>(std::integral_constant<int, kRowThreads>) {
        launch(stream, add_norm_backward_kernel<kAligned, T, kRowThreads>, {static_cast<unsigned>(ranges), kThreads},
               Work{bytes_of(dh, dh, dy, sum, mean, rstd, weight) + of_partial}, dh.data<T>(), partial, dy.data<T>(),
               sum.data<T>(), mean.data_or_null<float>(), rstd.data<float>(), weight.data<float>(), N, D, range);
      });
    });
  });
  launch(stream, add_partials_kernel, {blocks_for(2 * D, kColumns), dim3(kColumns, kPartialsAtOnce)},
         Work{of_partial + bytes_of(dweight, dweight, dbias, dbias)}, dweight.data<float>(),
         dbias.data_or_null<float>(), partial, ranges, D);
}

}  // namespace sffn::cuda
