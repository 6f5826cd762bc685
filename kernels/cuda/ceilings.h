// What the memory system of a GPU gives at most, by kernels that do nothing else. For benchmarks: nothing trains by
// them.
#pragma once
#include "core/stream.h"
#include "core/tensor.h"

#include <cstdint>

namespace sffn::cuda {

inline constexpr int64_t kCeilingRowBytes = 2048;  // of every row below: a token of width 1024 in bf16
inline constexpr int64_t kReaders = 8192;          // warps

// seen[w] = the exclusive or of all 16-byte words l, l + 32, … of rows index[w], index[w + kReaders], …, in lane l.
// seen [kReaders, 128] i32  rows [R,C] of 2 KiB  index [n] i32
void read_rows(Stream&, Tensor seen, const Tensor& rows, const Tensor& index);

// Reductions in L2: 16 bytes an instruction, or a row by a bulk copy from shared memory.
enum class RowReduction : uint8_t { kVector, kBulk };
// y[index[i]] += x[i mod kReaders mod R], in no order: the one place where sums may differ from run to run.
// y, x [R,C] f32 or bf16, of 2 KiB  index [n] i32. Needs compute capability 9.0, as can_add_rows() tells.
void add_rows(Stream&, Tensor y, const Tensor& x, const Tensor& index, RowReduction);
bool can_add_rows(Stream&);

}  // namespace sffn::cuda
