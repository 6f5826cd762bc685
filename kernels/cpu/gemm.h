// One single-threaded GEMM: the only door to oneDNN. Its result depends on the arguments alone, never on the number of
// OpenMP threads around it (a threaded GEMM may cut K by thread and change the last bits).
#pragma once
#include "core/dtype.h"
#include "kernels/types.h"

#include <cstdint>
#include <string>

namespace sffn::cpu {

// c [m,n] = op(a) [m,k] · op(b) [k,n] + bias [n] (+ c); lda, ldb, ldc are the distances between stored rows.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;  // all at least 1
  int64_t lda = 0, ldb = 0, ldc = 0;
  Transpose ta = Transpose::kNo, tb = Transpose::kNo;
  Accumulate accumulate = Accumulate::kNo;
  bool has_bias = false;
  DType input = DType::kF32;   // of a and b: f32 or bf16
  DType output = DType::kF32;  // of c: f32, or bf16 when the input is; sums are fp32 and round once

  bool operator==(const Gemm&) const = default;
};

// `bias` is fp32, nullptr without has_bias. Primitives and scratch memory are kept per thread and shape: after the
// first call with a shape no tensor memory is allocated. Throws RunError when oneDNN refuses.
void run_gemm(const Gemm&, void* c, const void* a, const void* b, const float* bias);

bool gemm_has_native_bf16();  // the processor multiplies bf16 itself, and oneDNN uses that
std::string gemm_library();   // "oneDNN 2.6.3"

}  // namespace sffn::cpu
