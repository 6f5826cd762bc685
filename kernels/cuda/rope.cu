// In place on the query and key heads of qkv [N, (H+2·H_kv)·d_h], θ_i = ±position·theta^(-2i/d_h):
// (x_i, x_{i+d_h/2}) = (x_i cos θ_i - x_{i+d_h/2} sin θ_i, x_{i+d_h/2} cos θ_i + x_i sin θ_i)
// A block takes a token: its angles once, into shared memory, then all heads, a pack of pairs a thread. Angles are
// reduced in double: at position 100,000 a float is wrong by radians.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kMostThreads = 256;

// To 1e-7 absolute for |angle| < 1e9: multiples of π/2 are taken off in double; Taylor polynomials on [-π/4, π/4].
__device__ __forceinline__ void sin_cos(double angle, float& sine, float& cosine) {
  constexpr double kTwoOverPi = 0.63661977236758134308, kHalfPi = 1.57079632679489661923;
  const double quarters = rint(angle * kTwoOverPi);
  const auto quarter = static_cast<int32_t>(quarters);
  const auto r = static_cast<float>(fma(-quarters, kHalfPi, angle));
  const float r2 = r * r;
  float s = fmaf(r2, 2.75573192e-6f, -1.98412698e-4f);
  s = fmaf(s, r2, 8.33333333e-3f);
  s = fmaf(s, r2, -1.66666667e-1f);
  s = fmaf(s * r2, r, r);
  float c = fmaf(r2, -2.75573192e-7f, 2.48015873e-5f);
  c = fmaf(c, r2, -1.38888889e-3f);
  c = fmaf(c, r2, 4.16666667e-2f);
  c = fmaf(c, r2, -0.5f);
  c = fmaf(c, r2, 1.0f);
  const float first = (quarter & 1) != 0 ? c : s, second = (quarter & 1) != 0 ? s : c;
  sine = (quarter & 2) != 0 ? -first : first;
  cosine = ((quarter + 1) & 2) != 0 ? -second : second;
}

// frequency[i] = theta^(-2i/d_h), i < d_h/2
__global__ void frequency_kernel(double* frequency, int head_dim, double theta) {
  const int i = static_cast<int>(blockIdx.x * kMostThreads + threadIdx.x);
  if (i < head_dim / 2) frequency[i] = pow(theta, -2.0 * i / head_dim);
}

template <bool kAligned, class T>
__global__ void rotate_kernel(T* qkv, const int32_t* positions, const double* frequency, int64_t width, int heads,
                              int head_dim, int direction) {
  constexpr int kCount = kPackCount<T>;
  const int half = head_dim / 2, packs = (half + kCount - 1) / kCount;
  float *cosine = dynamic_shared<float>(), *sine = cosine + half;
  const int64_t n = blockIdx.x;
  const double position = static_cast<double>(direction) * positions[n];
  for (int i = static_cast<int>(threadIdx.x); i < half; i += static_cast<int>(blockDim.x)) {
    sin_cos(position * frequency[i], sine[i], cosine[i]);
  }
  __syncthreads();
  for (int item = static_cast<int>(threadIdx.x); item < heads * packs; item += static_cast<int>(blockDim.x)) {
    const int first = item % packs * kCount, count = half - first;
    T* low = qkv + n * width + int64_t{item / packs} * head_dim + first;
    float a[kCount], b[kCount];
    load_floats<kAligned>(a, low, count);
    load_floats<kAligned>(b, low + half, count);
    for (int i = 0; i < kCount; ++i) {
      if (i >= count) continue;
      const float c = cosine[first + i], s = sine[first + i], x = a[i], y = b[i];
      a[i] = x * c - y * s;
      b[i] = y * c + x * s;
    }
    store_floats<kAligned>(low, a, count);
    store_floats<kAligned>(low + half, b, count);
  }
}

void rotate(Stream& stream, const char* op, Tensor qkv, const Tensor& positions, const AttentionShape& s, double theta,
            int direction) {
  const int64_t half = s.head_dim / 2;
  if (qkv.numel() == 0) return;
  auto* frequency = workspace<double>(stream, half);
  launch(stream, frequency_kernel, {blocks_for(half, kMostThreads), kMostThreads}, Work{bytes_for<double>(half)},
         frequency, s.head_dim, theta);
  with_activation_type(op, qkv, [&]<class T>(T) {
    const int64_t heads = s.heads + s.kv_heads, items = heads * ((half + kPackCount<T> - 1) / kPackCount<T>);
    const auto threads = static_cast<unsigned>(std::min<int64_t>(kMostThreads, (items + 31) / 32 * 32));
    const LaunchShape shape{blocks_for(s.tokens(), 1), threads, 2 * static_cast<size_t>(half) * sizeof(float)};
    const Work work{bytes_for<T>(2 * s.tokens() * heads * s.head_dim) + bytes_of(positions)};
    with_constant(rows_are_packs<T>(half, {qkv.raw()}), [&]<bool kAligned>(std::bool_constant<kAligned>) {
      launch(stream, rotate_kernel<kAligned, T>, shape, work, qkv.data<T>(), positions.data<int32_t>(), frequency,
             s.qkv_width(), heads, s.head_dim, direction);
    });
  });
}

}  // namespace

void rope_forward(Stream& stream, Tensor qkv, const Tensor& positions, const AttentionShape& shape, double theta) {
  rotate(stream, "rope_forward", qkv, positions, shape, theta, 1);
}

void rope_backward(Stream& stream, Tensor dqkv, const Tensor& positions, const AttentionShape& shape, double theta) {
  rotate(stream, "rope_backward", dqkv, positions, shape, theta, -1);
}

}  // namespace sffn::cuda
