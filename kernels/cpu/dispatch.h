// From the dtype of a tensor to a type. f64 and c128 run the reference code: they exist to judge whole layers.
#pragma once
#include "core/dtype.h"
#include "core/error.h"

#include <complex>
#include <type_traits>

namespace sffn::cpu {

template <class T>
using AccumulateOf = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;

template <class T>
inline constexpr bool kIsReference = std::is_same_v<T, double> || std::is_same_v<T, std::complex<double>>;

// f(T{}) for the floating type of `dtype`: float, bfloat16, double or std::complex<double>.
template <class F>
void with_float_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(bfloat16{});
    case DType::kF64:
      return f(double{});
    case DType::kC128:
      return f(std::complex<double>{});
    case DType::kI32:
      break;
  }
  throw RunError("with_float_type", "a floating dtype is needed, not i32");
}

// f(T{}) for the type of an "acc" tensor: float, double or std::complex<double>.
template <class F>
void with_accumulate_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kF64:
      return f(double{});
    case DType::kC128:
      return f(std::complex<double>{});
    case DType::kBF16:
    case DType::kI32:
      break;
  }
  throw RunError("with_accumulate_type", cat("f32, f64 or c128 is needed, not ", name_of(dtype)));
}

}  // namespace sffn::cpu
