// h = f(z), or h = f(gate) ⊙ z when a gate is given                                             h, z, gate [n] act
// dz = dh ⊙ f'(z), or dz = dh ⊙ f(gate), dgate = dh ⊙ z ⊙ f'(gate)                              dz may be dh's memory
// A thread takes 16 bytes of each tensor: bound by memory.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

template <bool kAligned, class F, class T>
__global__ void activation_forward_kernel(T* h, const T* z, const T* gate, int64_t n) {
  constexpr int kCount = kPackCount<T>;
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount, count = n - first;
  if (count <= 0) return;
  float in[kCount], out[kCount];
  load_floats<kAligned>(in, z + first, count);
  if (gate != nullptr) {
    float gates[kCount];
    load_floats<kAligned>(gates, gate + first, count);
    for (int i = 0; i < kCount; ++i) out[i] = F::value(gates[i]) * in[i];
  } else {
    for (int i = 0; i < kCount; ++i) out[i] = F::value(in[i]);
  }
  store_floats<kAligned>(h + first, out, count);
}

template <bool kAligned, class F, class T>
__global__ void activation_backward_kernel(T* dz, T* dgate, const T* dh, const T* z, const T* gate, int64_t n) {
  constexpr int kCount = kPackCount<T>;
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount, count = n - first;
  if (count <= 0) return;
  float grad[kCount], in[kCount];
  load_floats<kAligned>(grad, dh + first, count);
  load_floats<kAligned>(in, z + first, count);
  if (gate != nullptr) {
    float gates[kCount];
    load_floats<kAligned>(gates, gate + first, count);
    for (int i = 0; i < kCount; ++i) {
      const ValueAndSlope f = F::both(gates[i]);
      gates[i] = grad[i] * in[i] * f.slope;
      grad[i] *= f.value;
    }
    store_floats<kAligned>(dgate + first, gates, count);
  } else {
    for (int i = 0; i < kCount; ++i) grad[i] *= F::both(in[i]).slope;
  }
  store_floats<kAligned>(dz + first, grad, count);
}

template <class T>
LaunchShape shape_for(int64_t n) {
  return {blocks_for(n, kThreads * kPackCount<T>), kThreads};
}

}  // namespace

void activation_forward(Stream& stream, Tensor h, const Tensor& z, const Tensor& gate, Activation f) {
  const bool aligned = is_aligned(h.raw()) && is_aligned(z.raw()) && is_aligned(gate.raw());
  with_activation_type("activation_forward", z, [&]<class T>(T) {
    with_activation(f, [&]<class F>(F) {
      with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
        launch(stream, activation_forward_kernel<kAligned, F, T>, shape_for<T>(z.numel()), Work{bytes_of(h, z, gate)},
               h.data<T>(), z.data<T>(), gate.data_or_null<T>(), z.numel());
      });
    });
  });
}

void activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dh, const Tensor& z, const Tensor& gate,
                         Activation f) {
  const bool aligned = is_aligned(dz.raw()) && is_aligned(dgate.raw()) && is_aligned(dh.raw()) && is_aligned(z.raw()) &&
                       is_aligned(gate.raw());
  with_activation_type("activation_backward", z, [&]<class T>(T) {
    with_activation(f, [&]<class F>(F) {
      with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
        launch(stream, activation_backward_kernel<kAligned, F, T>, shape_for<T>(z.numel()),
               Work{bytes_of(dz, dgate, dh, z, gate)}, dz.data<T>(), dgate.data_or_null<T>(), dh.data<T>(), z.data<T>(),
               gate.data_or_null<T>(), z.numel());
      });
    });
  });
}

}  // namespace sffn::cuda
