// The tiles of cpu::matmul, apart from tensors.
#pragma once
#include "core/dtype.h"
#include "kernels/types.h"

#include <cstdint>

namespace sffn::cpu {

enum class Bf16Matmul : uint8_t { kNative, kThroughF32 };

// c [M,N] = op(a) [M,K] · op(b) [K,N] + bias [N] (+ c), all contiguous; f32 or bf16 inputs.
struct MatmulProblem {
  int64_t M = 0, N = 0, K = 0;
  Transpose ta = Transpose::kNo, tb = Transpose::kNo;
  Accumulate accumulate = Accumulate::kNo;
  DType input = DType::kF32, output = DType::kF32;
  void* c = nullptr;
  const void *a = nullptr, *b = nullptr;
  const float* bias = nullptr;  // nullptr: none
};

struct TileSize {
  int64_t rows, cols;
};

// A function of the problem's sizes and types alone: the cut must not depend on threads.
TileSize matmul_tile(const MatmulProblem&);
void matmul_in_tiles(const MatmulProblem&, Bf16Matmul);

}  // namespace sffn::cpu
