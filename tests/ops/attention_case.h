// One attention problem in any floating type: inputs drawn once in double, run through the CPU ops.
#pragma once
#include "core/stream.h"
#include "core/tensor.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/ops.h"
#include "support/complex_step.h"

#include <cstring>
#include <vector>

namespace sffn::test {

template <class T>
Tensor tensor_of(std::vector<T>& values, Shape shape) {
  REQUIRE(static_cast<int64_t>(values.size()) == shape.numel());
  return Tensor(values.data(), shape, DTypeOf<T>::value, Device::cpu());
}

template <class T>
std::vector<T> converted(const std::vector<double>& values) {
  std::vector<T> result;
  for (double x : values) {
    if constexpr (std::is_same_v<T, bfloat16>) {
      result.push_back(bfloat16(static_cast<float>(x)));
    } else {
      result.push_back(T(x));
    }
  }
  return result;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

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

template <class T>
struct AttentionResult {
  std::vector<T> out, dqkv;
  std::vector<cpu::AccumulateOf<T>> lse;
  bool operator==(const AttentionResult& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(out, other.out) && same(dqkv, other.dqkv) && same(lse, other.lse);
  }
};

// Forward and backward of the case rounded to T.
template <class T>
AttentionResult<T> run_attention(const AttentionCase& c) {
  const AttentionShape& s = c.shape;
  std::vector<T> qkv = converted<T>(c.qkv), dout = converted<T>(c.dout);
  std::vector<int32_t> start = c.segment_start;
  AttentionResult<T> result;
  result.out.resize(dout.size()), result.dqkv.resize(qkv.size());
  result.lse.resize(static_cast<size_t>(s.batch * s.heads * s.time));

  Stream stream(cpu_runtime());
  const Tensor q = tensor_of(qkv, {s.tokens(), s.qkv_width()}), dq = tensor_of(result.dqkv, q.shape());
  const Tensor o = tensor_of(result.out, {s.tokens(), s.out_width()});
  const Tensor lse = tensor_of(result.lse, {s.batch, s.heads, s.time});
  const Tensor first = start.empty() ? Tensor() : tensor_of(start, {s.tokens()});
  ops::attention_forward(stream, o, lse, q, first, s, c.dropout);
  ops::attention_backward(stream, dq, tensor_of(dout, o.shape()), o, lse, q, first, s, c.dropout);
  return result;
}

}  // namespace sffn::test
