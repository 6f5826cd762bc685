#include "kernels/cpu/matmul.h"

#include "core/error.h"
#include "kernels/cpu/capabilities.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/matmul.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <mutex>

namespace sffn::cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The length of one of `pieces` equal pieces of [0, size), a multiple of 32 (the last piece is then shorter).
int64_t piece_of(int64_t size, int64_t pieces) { return std::min(size, ceil_div(ceil_div(size, pieces), 32) * 32); }

struct Tile {
  int64_t row, col, rows, cols;
};

const void* at(const void* base, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(base) + elements * static_cast<int64_t>(size_of(dtype));
}
void* at(void* base, int64_t elements, DType dtype) {
  return static_cast<std::byte*>(base) + elements * static_cast<int64_t>(size_of(dtype));
}

// Where op(a)[row, k] and op(b)[k, col] begin, and the distance between their stored rows.
int64_t stride_a(const MatmulProblem& p) { return p.ta == Transpose::kYes ? p.M : p.K; }
int64_t stride_b(const MatmulProblem& p) { return p.tb == Transpose::kYes ? p.K : p.N; }
const void* element_a(const MatmulProblem& p, int64_t row, int64_t k) {
  return at(p.a, p.ta == Transpose::kYes ? k * p.M + row : row * p.K + k, p.input);
}
const void* element_b(const MatmulProblem& p, int64_t k, int64_t col) {
  return at(p.b, p.tb == Transpose::kYes ? col * p.K + k : k * p.N + col, p.input);
}

void run_tile(const MatmulProblem& p, const Tile& tile) {
  const Gemm gemm{.m = tile.rows,
                  .n = tile.cols,
                  .k = p.K,
                  .lda = stride_a(p),
                  .ldb = stride_b(p),
                  .ldc = p.N,
                  .ta = p.ta,
                  .tb = p.tb,
                  .accumulate = p.accumulate,
                  .has_bias = p.bias != nullptr,
                  .input = p.input,
                  .output = p.output};
  run_gemm(gemm, at(p.c, tile.row * p.N + tile.col, p.output), element_a(p, tile.row, 0), element_b(p, 0, tile.col),
           p.bias != nullptr ? p.bias + tile.col : nullptr);
}

// to [rows, cols] contiguous = from, whose rows are `stride` apart
void widen(float* to, const bfloat16* from, int64_t stride, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) to[r * cols + c] = from[r * stride + c];
  }
}

// c = sum (+ c), rounded to the type of c
template <class T>
void store_tile(T* c, int64_t ldc, const float* sum, const Tile& tile, Accumulate accumulate) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t n = 0; n < tile.cols; ++n) {
      const float value = sum[r * tile.cols + n];
      c[r * ldc + n] = T(accumulate == Accumulate::kYes ? value + static_cast<float>(c[r * ldc + n]) : value);
    }
  }
}

// The tile of a bf16 product from fp32 copies of slices of K, small enough to stay in the cache.
void run_tile_through_f32(const MatmulProblem& p, const Tile& tile) {
  constexpr int64_t kDepth = 512;
  thread_local Scratch scratch_a, scratch_b, scratch_c;
  auto* a = static_cast<float*>(scratch_a.get(sizeof(float) * tile.rows * kDepth));
  auto* b = static_cast<float*>(scratch_b.get(sizeof(float) * tile.cols * kDepth));
  auto* sum = static_cast<float*>(scratch_c.get(sizeof(float) * tile.rows * tile.cols));
  const bool ta = p.ta == Transpose::kYes, tb = p.tb == Transpose::kYes;
  for (int64_t k = 0; k < p.K; k += kDepth) {
    const int64_t depth = std::min(kDepth, p.K - k);
    widen(a, static_cast<const bfloat16*>(element_a(p, tile.row, k)), stride_a(p), ta ? depth : tile.rows,
          ta ? tile.rows : depth);
    widen(b, static_cast<const bfloat16*>(element_b(p, k, tile.col)), stride_b(p), tb ? tile.cols : depth,
          tb ? depth : tile.cols);
    const bool first = k == 0;
    const Gemm gemm{.m = tile.rows,
                    .n = tile.cols,
                    .k = depth,
                    .lda = ta ? tile.rows : depth,
                    .ldb = tb ? depth : tile.cols,
                    .ldc = tile.cols,
                    .ta = p.ta,
                    .tb = p.tb,
                    .accumulate = first ? Accumulate::kNo : Accumulate::kYes,
                    .has_bias = first && p.bias != nullptr};
    run_gemm(gemm, sum, a, b, gemm.has_bias ? p.bias + tile.col : nullptr);
  }
  void* c = at(p.c, tile.row * p.N + tile.col, p.output);
  if (p.output == DType::kBF16) {
    store_tile(static_cast<bfloat16*>(c), p.N, sum, tile, p.accumulate);
  } else {
    store_tile(static_cast<float*>(c), p.N, sum, tile, p.accumulate);
  }
}

// K = 0: c = bias (+ c)
template <class T>
void add_empty_product(T* c, const float* bias, const MatmulProblem& p) {
  for (int64_t i = 0; i < p.M * p.N; ++i) {
    const float value = bias != nullptr ? bias[i % p.N] : 0.0f;
    c[i] = T(p.accumulate == Accumulate::kYes ? value + static_cast<float>(c[i]) : value);
  }
}

// An exception must not leave a parallel region: the first one waits until all threads are through.
class FirstError {
 public:
  template <class F>
  void run(F&& f) {
    try {
      f();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

// Tiles of whole rows: a and c are then contiguous, for which oneDNN 2 has its faster kernels (bf16 output: 205 instead
// of 170 to 190 GFLOP/s of a core at K = 256). fp32 with b as stored is the exception (97 against 107).
bool prefers_whole_rows(const MatmulProblem& p) {
  return p.M >= 256 && p.N <= 1024 && p.ta == Transpose::kNo && (p.input == DType::kBF16 || p.tb == Transpose::kYes);
}

// Up to 512 x 512, in at least 4 tiles and preferably a multiple of 4, so that 2 or 4 threads finish together. A GEMM
// copies both operands once a tile into its own layout; measured, that costs about 20·(1/rows + 1/cols) of the product.
TileSize best_rectangle(const MatmulProblem& p) {
  constexpr int64_t kLimit = 512, kThreads = 4;
  TileSize best{};
  double best_cost = 0;
  for (int64_t i = 0; i < kThreads; ++i) {
    for (int64_t j = 0; j < kThreads; ++j) {
      const TileSize tile{piece_of(p.M, ceil_div(p.M, kLimit) + i), piece_of(p.N, ceil_div(p.N, kLimit) + j)};
      const int64_t tiles = ceil_div(p.M, tile.rows) * ceil_div(p.N, tile.cols);
      const double copies = 20.0 / static_cast<double>(tile.rows) + 20.0 / static_cast<double>(tile.cols);
      const double idle = static_cast<double>(ceil_div(tiles, kThreads) * kThreads) / static_cast<double>(tiles);
      const double cost = (1 + copies) * idle;
      if (best_cost == 0 || cost < best_cost) best = tile, best_cost = cost;
    }
  }
  return best;
}

}  // namespace

TileSize matmul_tile(const MatmulProblem& p) {
  constexpr double kTooSmallToShare = 1 << 21;  // multiply-adds: some 20 microseconds of one core
  if (static_cast<double>(p.M) * static_cast<double>(p.N) * static_cast<double>(p.K) < kTooSmallToShare) {
    return {p.M, p.N};
  }
  if (prefers_whole_rows(p)) return {std::min<int64_t>(256, piece_of(p.M, 4)), p.N};
  return best_rectangle(p);
}

void matmul_in_tiles(const MatmulProblem& p, Bf16Matmul bf16) {
  if (p.M == 0 || p.N == 0) return;
  if (p.K == 0) {
    return p.output == DType::kBF16 ? add_empty_product(static_cast<bfloat16*>(p.c), p.bias, p)
                                    : add_empty_product(static_cast<float*>(p.c), p.bias, p);
  }
  const TileSize size = matmul_tile(p);
  const int64_t tiles_N = ceil_div(p.N, size.cols), tiles = ceil_div(p.M, size.rows) * tiles_N;
  const bool through_f32 = p.input == DType::kBF16 && bf16 == Bf16Matmul::kThroughF32;
  FirstError error;
  parallel_chunks(tiles, 1, [&](int64_t index, int64_t) {
    const int64_t row = index / tiles_N * size.rows, col = index % tiles_N * size.cols;
    const Tile tile{row, col, std::min(size.rows, p.M - row), std::min(size.cols, p.N - col)};
    error.run([&] { through_f32 ? run_tile_through_f32(p, tile) : run_tile(p, tile); });
  });
  error.rethrow();
}

void matmul(Stream&, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  const int64_t M = c.rows(), N = c.cols(), K = ta == Transpose::kYes ? a.rows() : a.cols();
  with_float_type(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::matmul(c.data<T>(), a.data<T>(), ta, b.data<T>(), tb, bias.data_or_null<T>(), accumulate, M, N, K);
    } else {
      const MatmulProblem problem{.M = M,
                                  .N = N,
                                  .K = K,
                                  .ta = ta,
                                  .tb = tb,
                                  .accumulate = accumulate,
                                  .input = a.dtype(),
                                  .output = c.dtype(),
                                  .c = c.raw(),
                                  .a = a.raw(),
                                  .b = b.raw(),
                                  .bias = bias.data_or_null<float>()};
      matmul_in_tiles(problem, cpu_has_bf16_matmul() ? Bf16Matmul::kNative : Bf16Matmul::kThroughF32);
    }
  });
}

}  // namespace sffn::cpu
