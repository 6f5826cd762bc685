#include "kernels/ref/group_sum.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <array>

namespace sffn::cpu {
namespace {

constexpr int64_t kStrip = 64;  // columns of one unit of work: whole cache lines of each row

// out[c] = Σ_r x[r,c] over at most kStrip columns, rows in order; the total in double, so that its error does not grow
// with the number of rows.
void sum_strip(float* out, const float* x, int64_t rows, int64_t stride, int64_t columns) {
  constexpr int64_t kBlock = 64;
  std::array<double, kStrip> total{};
  for (int64_t first = 0; first < rows; first += kBlock) {
    std::array<float, kStrip> block{};
    for (int64_t r = first; r < std::min(rows, first + kBlock); ++r) {
      const float* row = x + r * stride;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) block[c] += row[c];
    }
    for (int64_t c = 0; c < columns; ++c) total[c] += static_cast<double>(block[c]);
  }
  for (int64_t c = 0; c < columns; ++c) out[c] = static_cast<float>(total[c]);
}

}  // namespace

void group_sum(Stream&, Tensor out, const Tensor& x) {
  const int64_t rows = x.rows(), columns = x.cols(), groups = out.rows();
  with_accumulate_type(x.dtype(), [&]<class T>(T) {
    T* sums = out.data<T>();
    const T* in = x.data<T>();
    if constexpr (kIsReference<T>) {
      ref::group_sum(sums, in, rows, columns, groups);
    } else {
      const int64_t strips = (columns + kStrip - 1) / kStrip, group_rows = rows / groups;
      parallel_chunks(groups * strips, 1, [&](int64_t first, int64_t last) {
        for (int64_t unit = first; unit < last; ++unit) {
          const int64_t group = unit / strips, column = unit % strips * kStrip;
          sum_strip(sums + group * columns + column, in + group * group_rows * columns + column, group_rows, columns,
                    std::min(kStrip, columns - column));
        }
      });
    }
  });
}

}  // namespace sffn::cpu
