#include "kernels/cpu/index_check.h"

#include "kernels/cpu/parallel.h"

#include <algorithm>
#include <atomic>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // indices a chunk

}  // namespace

void check_indices(const char* op, const char* name, const Tensor& indices, int64_t least, int64_t end) {
  const int32_t* values = indices.data<int32_t>();
  std::atomic<bool> valid{true};
  parallel_chunks(indices.numel(), kGrain, [&](int64_t first, int64_t last) {
    int64_t low = least, high = end - 1;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = first; i < last; ++i) {
      low = std::min<int64_t>(low, values[i]);
      high = std::max<int64_t>(high, values[i]);
    }
    if (low < least || high >= end) valid = false;
  });
  if (valid) return;
  const auto is_outside = [=](int32_t value) { return value < least || value >= end; };
  const int64_t i = std::find_if(values, values + indices.numel(), is_outside) - values;
  const bool has_rows = indices.shape().rank() > 1;
  const std::string place = has_rows ? cat(i / indices.cols(), ", ", i % indices.cols()) : cat(i);
  throw RunError(op, cat(name, "[", place, "] is ", values[i], "; expected ", least, " to ", end - 1));
}

}  // namespace sffn::cpu
