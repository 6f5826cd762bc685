// Elementary functions of float that g++ turns into vector code inside `#pragma omp simd`: no branch, no table, no
// call. A result depends on the argument only, never on its place in a vector, because every multiply-add is written
// out.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace sffn::cpu {

// a·b + c, in one rounding where the processor has it.
inline float multiply_add(float a, float b, float c) {
#ifdef __FMA__
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// e^x within 1.2 ulp; 0 below -87.33 (where the result would be denormal), +inf above 88.73, NaN for NaN.
// x = n·ln 2 + r, |r| <= ln 2 / 2;  e^r = 1 + r + r²·q(r), q interpolating at Chebyshev nodes to 1e-8.
inline float exp_f32(float x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  float clamped = x < -87.5f ? -87.5f : x;
  clamped = clamped > 89.0f ? 89.0f : clamped;
  const float shifted = multiply_add(clamped, kLog2E, kRound);
  const float n = shifted - kRound;
  float r = multiply_add(n, -kLn2High, clamped);
  r = multiply_add(n, -kLn2Low, r);
  float q = 1.39261775e-3f;
  q = multiply_add(q, r, 8.36317418e-3f);
  q = multiply_add(q, r, 4.16665547e-2f);
  q = multiply_add(q, r, 1.66665770e-1f);
  q = multiply_add(q, r, 0.5f);
  const float fraction = multiply_add(r * r, q, r) + 1.0f;
  // 2^n in two factors: n may be 128, one more than a float's exponent holds.
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t half = exponent >> 1;
  const float scale = std::bit_cast<float>((half + 127) << 23);
  const float other_scale = std::bit_cast<float>((exponent - half + 127) << 23);
  const float result = fraction * scale * other_scale;
  return x < -87.33f ? 0.0f : result;
}

// The standard normal distribution: cdf = Φ(x) within 8 ulp in both tails, density = e^(-x²/2) / √(2π) within 4.
// Φ(-a) = e^(-a²/2)·t·h(t), t = 1 / (1 + 0.24 a), for a >= 0; h interpolates at Chebyshev nodes to 4e-9.
inline void normal_f32(float x, float& cdf, float& density) {
  const float a = x < 0.0f ? -x : x;
  const float square = a * a;
  const float rounding = multiply_add(a, a, -square);  // e^(-a²/2) needs a² beyond float
  const float gauss = exp_f32(-0.5f * square) * (1.0f - 0.5f * rounding);
  const float t = 1.0f / multiply_add(0.24f, a, 1.0f);
  float h = 2.54010162e-2f;
  h = multiply_add(h, t, -1.23965239e-1f);
  h = multiply_add(h, t, 2.03910975e-1f);
  h = multiply_add(h, t, -1.42182733e-1f);
  h = multiply_add(h, t, 1.39705592e-1f);
  h = multiply_add(h, t, 2.91059729e-2f);
  h = multiply_add(h, t, 8.74243804e-2f);
  h = multiply_add(h, t, 8.90097558e-2f);
  h = multiply_add(h, t, 9.58476781e-2f);
  h = multiply_add(h, t, 9.57426020e-2f);
  const float tail = gauss * t * h;
  cdf = x < 0.0f ? tail : 1.0f - tail;
  density = gauss * 0.398942280f;
}

// sin and cos of an angle given in double, |angle| < 1e9, to 1e-7 absolute: reduced by multiples of π/2 in double, then
// Taylor polynomials in float on [-π/4, π/4].
inline void sin_cos_f32(double angle, float& sine, float& cosine) {
  constexpr double kRound = 0x1.8p52, kTwoOverPi = 0.63661977236758134308, kHalfPi = 1.57079632679489661923;
  const double shifted = angle * kTwoOverPi + kRound;
  const auto quarter = static_cast<int32_t>(std::bit_cast<int64_t>(shifted));
  const auto r = static_cast<float>(angle - (shifted - kRound) * kHalfPi);
  const float r2 = r * r;
  float s = multiply_add(r2, 2.75573192e-6f, -1.98412698e-4f);
  s = multiply_add(s, r2, 8.33333333e-3f);
  s = multiply_add(s, r2, -1.66666667e-1f);
  s = multiply_add(s * r2, r, r);
  float c = multiply_add(r2, -2.75573192e-7f, 2.48015873e-5f);
  c = multiply_add(c, r2, -1.38888889e-3f);
  c = multiply_add(c, r2, 4.16666667e-2f);
  c = multiply_add(c, r2, -0.5f);
  c = multiply_add(c, r2, 1.0f);
  const float first = quarter & 1 ? c : s, second = quarter & 1 ? s : c;
  sine = quarter & 2 ? -first : first;
  cosine = (quarter + 1) & 2 ? -second : second;
}

}  // namespace sffn::cpu
