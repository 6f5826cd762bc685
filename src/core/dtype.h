// Element types. f64 and c128 exist for tests: whole layers run in double and by complex step through the same code.
#pragma once
#include <bit>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sffn {

enum class DType : uint8_t { kF32, kBF16, kI32, kF64, kC128 };

// The upper half of an IEEE float. Conversion from float rounds to nearest even; NaN stays NaN. constexpr, here and in
// core/random.h, makes a function one that CUDA kernels may call.
struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  constexpr explicit bfloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(is_nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  // Rounds as the constructor does. In a loop, x[i] = f becomes vector code; x[i] = bfloat16(f), a struct copy, does
  // not.
  constexpr bfloat16& operator=(float value) {
    bits = bfloat16(value).bits;
    return *this;
  }
  constexpr operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<std::complex<double>> {
  static constexpr DType value = DType::kC128;
};

size_t size_of(DType);
std::string_view name_of(DType);

// The type of statistics, vectors (norms, biases), routers and parameter gradients beside activations of type `d`:
// f32 for f32 and bf16, else `d` itself.
constexpr DType accumulate_type(DType d) { return d == DType::kBF16 ? DType::kF32 : d; }

}  // namespace sffn
