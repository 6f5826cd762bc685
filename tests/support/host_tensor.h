// CPU tensors with their memory, of any dtype, that take and give values as double: one test body then runs an op in
// f32 and bf16 and, on the same rounded inputs, in f64, which is the reference.
#pragma once
#include "core/random.h"
#include "core/tensor.h"
#include "support/catch.h"

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace sffn::test {

class HostTensor {
 public:
  HostTensor() = default;  // absent
  HostTensor(DType dtype, Shape shape)
      : bytes_(static_cast<size_t>(shape.numel()) * size_of(dtype) + 1),  // never empty: its address is not null
        shape_(shape),
        dtype_(dtype),
        defined_(true) {}
  // Values rounded to the dtype.
  HostTensor(DType dtype, Shape shape, const std::vector<double>& values) : HostTensor(dtype, shape) {
    REQUIRE(static_cast<int64_t>(values.size()) == shape.numel());
    for (size_t i = 0; i < values.size(); ++i) set(i, values[i]);
  }
  static HostTensor indices(const std::vector<int32_t>& values) {
    HostTensor t(DType::kI32, {static_cast<int64_t>(values.size())});
    if (!values.empty()) std::memcpy(t.bytes_.data(), values.data(), values.size() * sizeof(int32_t));
    return t;
  }

  Tensor tensor() const {
    return defined_ ? Tensor(const_cast<std::byte*>(bytes_.data()), shape_, dtype_, Device::cpu()) : Tensor();
  }
  operator Tensor() const { return tensor(); }
  std::vector<double> values() const {
    std::vector<double> result(bytes_.size() / size_of(dtype_));
    for (size_t i = 0; i < result.size(); ++i) result[i] = get(i);
    return result;
  }
  // The same values in another dtype, and the same kind of absence.
  HostTensor as(DType dtype) const { return defined_ ? HostTensor(dtype, shape_, values()) : HostTensor(); }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  DType dtype() const { return dtype_; }

 private:
  template <class T>
  T* at(size_t i) const {
    return reinterpret_cast<T*>(const_cast<std::byte*>(bytes_.data())) + i;
  }
  void set(size_t i, double value) {
    switch (dtype_) {
      case DType::kF32:
        *at<float>(i) = static_cast<float>(value);
        break;
      case DType::kBF16:
        *at<bfloat16>(i) = bfloat16(static_cast<float>(value));
        break;
      case DType::kF64:
        *at<double>(i) = value;
        break;
      case DType::kC128:
        *at<std::complex<double>>(i) = value;
        break;
      case DType::kI32:
        *at<int32_t>(i) = static_cast<int32_t>(value);
        break;
    }
  }
  double get(size_t i) const {
    switch (dtype_) {
      case DType::kF32:
        return *at<float>(i);
      case DType::kBF16:
        return *at<bfloat16>(i);
      case DType::kF64:
        return *at<double>(i);
      case DType::kC128:
        return at<std::complex<double>>(i)->real();
      case DType::kI32:
        return *at<int32_t>(i);
    }
    return 0;
  }

  std::vector<std::byte> bytes_;
  Shape shape_;
  DType dtype_ = DType::kF32;
  bool defined_ = false;
};

// Integers of [-limit, limit]: small sums and products of them are exact in every floating dtype.
inline std::vector<double> integer_values(size_t count, uint64_t stream, int limit) {
  std::vector<double> values(count);
  const auto range = static_cast<uint32_t>(2 * limit + 1);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<double>(random_bits({8, stream}, i) % range) - limit;
  return values;
}

// Every |actual[i] - expected[i]| <= bound(i); names the first element that is not.
template <class Bound>
void check_within(const std::vector<double>& actual, const std::vector<double>& expected, Bound&& bound) {
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    if (!(error <= bound(i))) {
      FAIL_CHECK("element " << i << " is " << actual[i] << "; expected " << expected[i] << " within " << bound(i));
      return;
    }
  }
  SUCCEED();
}

}  // namespace sffn::test
