// sum' = sum + pending;  LayerNorm: y = (sum' - mean)·rstd·w + b,  RMSNorm: y = sum'·rstd·w             of rows [N,D]
// dh += rstd·(g - mean(g) - x̂·mean(g·x̂)), g = dy·w, x̂ = (sum' - mean)·rstd; RMSNorm has no mean(g), and mean is 0
// dw += Σ_n dy·x̂;  db += Σ_n dy
//
// A block takes several rows at once where 256 threads have all columns in one load each, else a row, of which a thread
// keeps 32 elements in registers and reads what is beyond (rows of more than 8192) again. So memory is passed once, 8
// bytes an element of bf16 forward, 8 backward, and all that a thread keeps is asked for before any of it is used.
//
// Backward, a block takes a range of rows whose length depends on N alone, sums their dw and db, and another kernel
// adds the blocks in order.
#include "kernels/cuda/add_partials.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kForwardRows = 4, kBackwardRows = 2;  // at once, where they are short
constexpr int kKept = 32;                           // elements of a long row that a thread keeps
constexpr int64_t kMostRanges = 512;                // of rows, in the backward pass

// What a thread has of kRows rows: the elements from column(p) on, of kPacks packs each.
template <class T, int kPacks_, int kRows_>
struct Cut {
  static constexpr int kCount = kPackCount<T>, kPacks = kPacks_, kRows = kRows_;
  static constexpr bool kLong = kRows == 1;  // there may be columns beyond
  static __device__ __forceinline__ int column(int pack) {
    return (pack * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kCount;
  }
};

// The elements of rows from n on, row by row of those before `last`, zeros elsewhere.
template <bool kAligned, class C, class T>
__device__ __forceinline__ void load_rows(Pack<T, C::kCount> (&to)[C::kRows][C::kPacks], const T* from, int64_t n,
                                          int64_t last, int D) {
  SFFN_UNROLL for (int r = 0; r < C::kRows; ++r) {
    SFFN_UNROLL for (int p = 0; p < C::kPacks; ++p) {
      const int c = C::column(p);
      to[r][p] = stored_in_row<kAligned, C::kCount>(from + (n + r) * D + c, n + r < last ? D - c : 0);
    }
  }
}

template <class T, int kCount>
__device__ __forceinline__ void add_rounded(float (&x)[kCount], const float (&more)[kCount]) {
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
    T rounded;
    store(rounded, x[i] + more[i]);
    x[i] = to_float(rounded);
  }
}

// For two blocks a multiprocessor: for more, the compiler would ask for packs only where they are used.
template <bool kAligned, class T, class C>
__global__ void __launch_bounds__(kThreads, 2)
    add_norm_forward_kernel(T* sum_out, T* y, float* mean, float* rstd, const T* sum, const T* pending,
                            const float* weight, const float* bias, int64_t N, int D, float eps) {
  constexpr int kCount = C::kCount, kRows = C::kRows, kPacks = C::kPacks;
  const int64_t first = int64_t{blockIdx.x} * kRows;
  float kept[kRows][kPacks][kCount];
  {
    Pack<T, kCount> of_sum[kRows][kPacks], of_pending[kRows][kPacks] = {};
    load_rows<kAligned, C>(of_sum, sum, first, N, D);
    if (pending != nullptr) load_rows<kAligned, C>(of_pending, pending, first, N, D);
    SFFN_UNROLL for (int r = 0; r < kRows; ++r) {
      SFFN_UNROLL for (int p = 0; p < kPacks; ++p) {
        float more[kCount];
        to_floats(kept[r][p], of_sum[r][p]);
        to_floats(more, of_pending[r][p]);
        if (pending != nullptr) add_rounded<T>(kept[r][p], more);
        const int c = C::column(p);
        if (sum_out != nullptr && first + r < N)
          store_in_row<kAligned>(sum_out + (first + r) * D + c, kept[r][p], D - c);
      }
    }
  }
  for (int p = kPacks; C::kLong && C::column(p) < D; ++p) {  // beyond the registers: there is one row
    const int c = C::column(p);
    float x[kCount], more[kCount];
    load_in_row<kAligned>(x, sum + first * D + c, D - c);
    if (pending != nullptr) {
      load_in_row<kAligned>(more, pending + first * D + c, D - c);
      add_rounded<T>(x, more);
    }
    if (sum_out != nullptr) store_in_row<kAligned>(sum_out + first * D + c, x, D - c);
  }
  const T* stored = pending != nullptr ? sum_out : sum;
  // f(row, its elements, their column) of all rows, kept or not.
  const auto each = [&](auto&& f) {
    SFFN_UNROLL for (int r = 0; r < kRows; ++r) {
      SFFN_UNROLL for (int p = 0; p < kPacks; ++p) {
        if (C::column(p) < D) f(r, kept[r][p], C::column(p));
      }
    }
    for (int p = kPacks; C::kLong && C::column(p) < D; ++p) {
      float x[kCount];
      load_in_row<kAligned>(x, stored + first * D + C::column(p), D - C::column(p));
      f(0, x, C::column(p));
    }
  };
  const float share = 1 / static_cast<float>(D);
  float mu[kRows] = {}, square[kRows] = {}, r_std[kRows];
  if (mean != nullptr) {
    each([&](int r, const float(&x)[kCount], int) {  // zeros beyond D
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) mu[r] += x[i];
    });
    block_sums(mu);
    SFFN_UNROLL for (int r = 0; r < kRows; ++r) mu[r] *= share;
  }
  each([&](int r, const float(&x)[kCount], int c) {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
      square[r] += kAligned || c + i < D ? (x[i] - mu[r]) * (x[i] - mu[r]) : 0.0f;
    }
  });
  float w[kCount], b[kCount] = {};  // of a short row
  const auto load_weight = [&](int c) {
    load_in_row<kAligned>(w, weight + c, D - c);
    if (bias != nullptr) load_in_row<kAligned>(b, bias + c, D - c);
  };
  if (!C::kLong) load_weight(C::column(0));
  block_sums(square);
  SFFN_UNROLL for (int r = 0; r < kRows; ++r) r_std[r] = 1 / sqrtf(square[r] * share + eps);
  each([&](int r, const float(&x)[kCount], int c) {
    if (first + r >= N) return;
    float out[kCount];
    if (C::kLong) load_weight(c);
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) out[i] = (x[i] - mu[r]) * r_std[r] * w[i] + b[i];
    store_in_row<kAligned>(y + (first + r) * D + c, out, D - c);
  });
  SFFN_UNROLL for (int r = 0; r < kRows; ++r) {
    if (threadIdx.x != 0 || first + r >= N) continue;
    rstd[first + r] = r_std[r];
    if (mean != nullptr) mean[first + r] = mu[r];
  }
}

struct NormRow {
  float mu, r;
};

// One pack of a row: g = dy·w, and x = x̂ from sum'.
template <int kCount>
__device__ __forceinline__ void to_gradient(float (&g)[kCount], float (&x)[kCount], const float (&dy)[kCount],
                                            const float (&weight)[kCount], NormRow at) {
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
    g[i] = weight[i] * dy[i];
    x[i] = (x[i] - at.mu) * at.r;
  }
}

// dh of the rows of range blockIdx.x, and partial[range] = their dw, then their db [2, D]. Blocks a multiprocessor: as
// forward.
template <bool kAligned, class T, class C>
__global__ void __launch_bounds__(kThreads, C::kPacks == 1 ? 2 : 1)
    add_norm_backward_kernel(T* dh, float* partial, const T* dy, const T* sum, const float* mean, const float* rstd,
                             const float* weight, int64_t N, int D, int64_t range) {
  constexpr int kCount = C::kCount, kRows = C::kRows, kPacks = C::kPacks;
  float* total_w = partial + int64_t{blockIdx.x} * 2 * D;
  float* total_b = total_w + D;
  float dw[kPacks][kCount] = {}, db[kPacks][kCount] = {}, w[kCount];  // w: of a short row
  load_in_row<kAligned>(w, weight + C::column(0), D - C::column(0));
  for (int p = kPacks; C::kLong && C::column(p) < D; ++p) {  // beyond the registers: in memory
    const float zeros[kCount] = {};
    store_floats<false>(total_w + C::column(p), zeros, D - C::column(p));
    store_floats<false>(total_b + C::column(p), zeros, D - C::column(p));
  }
  const float share = 1 / static_cast<float>(D);
  const int64_t first = blockIdx.x * range, last = first + range < N ? first + range : N;
  for (int64_t n = first; n < last; n += kRows) {
    Pack<T, kCount> of_dy[kRows][kPacks], of_sum[kRows][kPacks], of_dh[kRows][kPacks];
    load_rows<kAligned, C>(of_dy, dy, n, last, D);
    load_rows<kAligned, C>(of_sum, sum, n, last, D);
    load_rows<kAligned, C>(of_dh, dh, n, last, D);
    NormRow at[kRows];
    SFFN_UNROLL for (int r = 0; r < kRows; ++r) {
      at[r] = {mean != nullptr && n + r < last ? mean[n + r] : 0.0f, n + r < last ? rstd[n + r] : 0.0f};
    }
    float y[kCount], g[kCount], x[kCount];
    const auto load_kept = [&](int r, int p) {
      to_floats(y, of_dy[r][p]);
      to_floats(x, of_sum[r][p]);
      if (C::kLong) load_in_row<kAligned>(w, weight + C::column(p), D - C::column(p));
      to_gradient(g, x, y, w, at[r]);
    };
    const auto load_beyond = [&](int c) {
      load_in_row<kAligned>(y, dy + n * D + c, D - c);
      load_in_row<kAligned>(x, sum + n * D + c, D - c);
      load_in_row<kAligned>(w, weight + c, D - c);
      to_gradient(g, x, y, w, at[0]);
    };
    float sums[2 * kRows] = {};  // of each row: Σ g and Σ g·x̂
    const auto add_to_sums = [&](int r) {
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) sums[2 * r] += g[i], sums[2 * r + 1] += g[i] * x[i];
    };
    SFFN_UNROLL for (int r = 0; r < kRows; ++r) {
      SFFN_UNROLL for (int p = 0; p < kPacks; ++p) load_kept(r, p), add_to_sums(r);
    }
    for (int p = kPacks; C::kLong && C::column(p) < D; ++p) load_beyond(C::column(p)), add_to_sums(0);
    block_sums(sums);
    const auto finish = [&](float(&h)[kCount], int r, int c) {
      const float offset = mean != nullptr ? sums[2 * r] * share : 0.0f, projection = sums[2 * r + 1] * share;
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) h[i] += at[r].r * (g[i] - offset - x[i] * projection);
      if (n + r < last) store_in_row<kAligned>(dh + (n + r) * D + c, h, D - c);
    };
    SFFN_UNROLL for (int r = 0; r < kRows; ++r) {
      SFFN_UNROLL for (int p = 0; p < kPacks; ++p) {
        float h[kCount];
        load_kept(r, p);
        to_floats(h, of_dh[r][p]);
        finish(h, r, C::column(p));
        SFFN_UNROLL for (int i = 0; i < kCount; ++i) dw[p][i] += y[i] * x[i], db[p][i] += y[i];
      }
    }
    for (int p = kPacks; C::kLong && C::column(p) < D; ++p) {
      const int c = C::column(p);
      float h[kCount];
      load_beyond(c);
      load_in_row<kAligned>(h, dh + n * D + c, D - c);
      finish(h, 0, c);
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) {
        if (c + i < D) total_w[c + i] += y[i] * x[i], total_b[c + i] += y[i];
      }
    }
  }
  SFFN_UNROLL for (int p = 0; p < kPacks; ++p) {
    store_in_row<kAligned>(total_w + C::column(p), dw[p], D - C::column(p));
    store_in_row<kAligned>(total_b + C::column(p), db[p], D - C::column(p));
  }
}

// f(Cut) for rows of D elements, and the threads of a block.
template <class T, int kRows, class F>
void with_cut(int64_t D, F&& f) {
  constexpr int kCount = kPackCount<T>;
  if (D > kThreads * kCount) return f(Cut<T, kKept / kCount, 1>(), unsigned{kThreads});
  f(Cut<T, 1, kRows>(), blocks_for(D, 32 * kCount) * 32);
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
      with_cut<T, kForwardRows>(D, [&]<class C>(C, unsigned threads) {
        launch(stream, add_norm_forward_kernel<kAligned, T, C>, {blocks_for(N, C::kRows), threads}, work, out,
               y.data<T>(), mean.data_or_null<float>(), rstd.data<float>(), in, pending.data_or_null<T>(),
               weight.data<float>(), bias.data_or_null<float>(), N, D, eps);
      });
    });
  });
}

void add_norm_backward(Stream& stream, Tensor dh, Tensor dweight, Tensor dbias, const Tensor& dy, const Tensor& sum,
                       const Tensor& mean, const Tensor& rstd, const Tensor& weight) {
  const int64_t N = dh.rows(), D = dh.cols();
  if (N == 0) return;
  with_activation_type("add_norm_backward", dh, [&]<class T>(T) {
    const bool aligned = rows_are_packs<T>(D, {dh.raw(), dy.raw(), sum.raw(), weight.raw()});
    with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
      with_cut<T, kBackwardRows>(D, [&]<class C>(C, unsigned threads) {
        const int64_t range = (N + kMostRanges * C::kRows - 1) / (kMostRanges * C::kRows) * C::kRows;
        const int64_t ranges = blocks_for(N, range);
        auto* partial = workspace<float>(stream, ranges * 2 * D);
        launch(stream, add_norm_backward_kernel<kAligned, T, C>, {static_cast<unsigned>(ranges), threads},
               Work{bytes_of(dh, dh, dy, sum, mean, rstd, weight) + bytes_for<float>(ranges * 2 * D)}, dh.data<T>(),
               partial, dy.data<T>(), sum.data<T>(), mean.data_or_null<float>(), rstd.data<float>(),
               weight.data<float>(), N, D, range);
        add_partials(stream, dweight, dbias, partial, ranges, 2 * D);
      });
    });
  });
}

}  // namespace sffn::cuda
