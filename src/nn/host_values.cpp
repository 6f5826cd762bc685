#include "nn/host_values.h"

#include "kernels/cpu/dispatch.h"

namespace sffn {
namespace {

template <class T>
double to_double(const T& value) {
  if constexpr (std::is_same_v<T, std::complex<double>>) {
    return value.real();
  } else {
    return static_cast<double>(value);
  }
}

template <class T>
T from_double(double value) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return bfloat16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

}  // namespace

std::vector<double> read_values(Stream& stream, const Tensor& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.numel()));
  cpu::with_float_type(tensor.dtype(), [&](auto zero) {
    std::vector<decltype(zero)> raw(values.size());
    stream.copy_to_host(raw.data(), tensor);
    stream.synchronize();
    for (size_t i = 0; i < raw.size(); ++i) values[i] = to_double(raw[i]);
  });
  return values;
}

void write_values(Stream& stream, Tensor tensor, std::span<const double> values) {
  SFFN_CHECK(static_cast<int64_t>(values.size()) == tensor.numel(), values.size(), " values for a tensor of shape ",
             tensor.shape().str());
  cpu::with_float_type(tensor.dtype(), [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> raw(values.size());
    for (size_t i = 0; i < raw.size(); ++i) raw[i] = from_double<T>(values[i]);
    stream.copy_to_device(tensor, raw.data());
    stream.synchronize();
  });
}

}  // namespace sffn
