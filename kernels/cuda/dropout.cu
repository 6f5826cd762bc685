// x = x·keep/(1 - p) in place                                                                              x [n] act
// A thread takes the four elements of one Philox block, wherever the tensor begins in it.
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kCount = 4;

// kAligned: the tensor begins with a Philox block, at an aligned address.
template <bool kAligned, class T>
__global__ void dropout_kernel(T* x, int64_t n, DropoutSite site) {
  const DropoutMask mask(site);
  const int64_t block = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t first = block * kCount - static_cast<int64_t>(mask.first % kCount);  // may lie before the tensor
  if (first >= n) return;
  const Random4 bits = philox(mask.key, mask.first / kCount + static_cast<uint64_t>(block));
  if (kAligned && first + kCount <= n) {
    float values[kCount];
    load_floats<true>(values, x + first, kCount);
    for (int i = 0; i < kCount; ++i) values[i] = mask.drops(bits[i]) ? 0.0f : values[i] * mask.kept;
    store_floats<true>(x + first, values, kCount);
    return;
  }
  for (int i = 0; i < kCount; ++i) {
    if (first + i < 0 || first + i >= n) continue;
    store(x[first + i], mask.drops(bits[i]) ? 0.0f : to_float(x[first + i]) * mask.kept);
  }
}

}  // namespace

void dropout(Stream& stream, Tensor x, const Dropout& d) {
  if (x.numel() == 0) return;
  const DropoutSite site(d);
  const bool begins_a_block = d.draws.first_index % kCount == 0 && d.draws.per_sequence % kCount == 0;
  const int64_t most = begins_a_block ? x.numel() : x.numel() + kCount - 1;  // draws that the tensor's blocks span
  with_activation_type("dropout", x, [&]<class T>(T) {
    with_constant(begins_a_block && is_aligned(x.raw()), [&]<bool kAligned>(std::bool_constant<kAligned>) {
      launch(stream, dropout_kernel<kAligned, T>, {blocks_for(most, kThreads * kCount), kThreads}, Work{bytes_of(x, x)},
             x.data<T>(), x.numel(), site);
    });
  });
}

}  // namespace sffn::cuda
