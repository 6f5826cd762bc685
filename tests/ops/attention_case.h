// One attention problem, its inputs in double, run through the ops in any floating type.
#pragma once
#include "core/stream.h"
#include "kernels/ops.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"

#include <vector>

namespace sffn::test {

// Starts of documents of uneven lengths, the same in every sequence shifted by its number.
inline std::vector<int32_t> uneven_documents(const AttentionShape& shape, int64_t length) {
  std::vector<int32_t> start;
  for (int64_t b = 0; b < shape.batch; ++b) {
    int32_t first = 0;
    for (int64_t i = 0; i < shape.time; ++i) {
      if (i > 0 && (i * (b + 3)) % length == 0) first = static_cast<int32_t>(i);
      start.push_back(first);
    }
  }
  return start;
}

struct AttentionCase {
  AttentionShape shape;
  std::vector<double> qkv, dout;
  std::vector<int32_t> segment_start;  // empty: one document a sequence
  Dropout dropout;

  explicit AttentionCase(const AttentionShape& s)
      : shape(s),
        qkv(random_values(static_cast<size_t>(s.tokens() * s.qkv_width()), 1)),
        dout(random_values(static_cast<size_t>(s.tokens() * s.out_width()), 2)) {}
};

struct AttentionResult {
  HostTensor out, lse, dqkv;
  bool operator==(const AttentionResult& other) const {
    return out.bytes() == other.out.bytes() && lse.bytes() == other.lse.bytes() && dqkv.bytes() == other.dqkv.bytes();
  }
};

// Forward and backward of the case rounded to `dtype`, with qkv `skew` elements behind the beginning of its memory.
inline AttentionResult run_attention(DType dtype, const AttentionCase& c, int64_t skew = 0) {
  const AttentionShape& s = c.shape;
  const Shape qkv_shape{s.tokens(), s.qkv_width()}, out_shape{s.tokens(), s.out_width()};
  std::vector<double> skewed(static_cast<size_t>(skew));
  skewed.insert(skewed.end(), c.qkv.begin(), c.qkv.end());
  const HostTensor memory(dtype, {skew + qkv_shape.numel()}, skewed), dout(dtype, out_shape, c.dout);
  const Tensor qkv(static_cast<std::byte*>(memory.tensor().raw()) + static_cast<size_t>(skew) * size_of(dtype),
                   qkv_shape, dtype, Device::cpu());
  const HostTensor first = c.segment_start.empty() ? HostTensor() : HostTensor::indices(c.segment_start);
  AttentionResult result{HostTensor(dtype, out_shape), HostTensor(accumulate_type(dtype), {s.batch, s.heads, s.time}),
                         HostTensor(dtype, qkv_shape)};
  Stream stream(cpu_runtime());
  ops::attention_forward(stream, result.out, result.lse, qkv, first, s, c.dropout);
  ops::attention_backward(stream, result.dqkv, dout, result.out, result.lse, qkv, first, s, c.dropout);
  return result;
}

}  // namespace sffn::test
