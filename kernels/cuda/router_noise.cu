// noisy = logits + n ⊙ softplus(spread), n = N(0,1);  dlogits += dnoisy;  dspread += dnoisy ⊙ n ⊙ σ(spread)      [N,B]
// jitter:        x *= 1 + eps·(2u - 1)                                                                           x act
// mask_scores:   scores = value where dropout drops the element
// drop_choices:  out[n,i] = -1 where it drops element n·B + blocks[n,i], or blocks[n,i] is -1, else blocks[n,i]
// Element e takes draw first_index + e. Jitter and mask: a thread makes the four draws of one Philox block, and reads
// and writes their elements at once where they lie at 16 bytes. Otherwise a thread has an element.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/random.cuh"
#include "kernels/cuda/sigmoid.cuh"
#include "kernels/ops.h"

#include <cmath>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t thread_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__device__ __forceinline__ float noise(const Draws& draws, int64_t index) {
  return static_cast<float>(normal_at(draws.key, static_cast<uint64_t>(draws.first_index + index)));
}

// log(1 + e^x), by e^-|x| so that nothing overflows.
__device__ __forceinline__ float softplus(float x) { return log1pf(expf(-fabsf(x))) + (x > 0.0f ? x : 0.0f); }

__global__ void noisy_scores_forward_kernel(float* noisy, const float* logits, const float* spread, int64_t n,
                                            Draws draws) {
  const int64_t i = thread_index();
  if (i < n) noisy[i] = logits[i] + noise(draws.now(), i) * softplus(spread[i]);
}

__global__ void noisy_scores_backward_kernel(float* dlogits, float* dspread, const float* dnoisy, const float* spread,
                                             int64_t n, Draws draws) {
  const int64_t i = thread_index();
  if (i >= n) return;
  const float gradient = dnoisy[i];
  dlogits[i] += gradient;
  dspread[i] += gradient * noise(draws.now(), i) * sigmoid(spread[i]);
}

// The draws of one Philox block, and the element that takes the first of them: below 0 where the block begins before
// the tensor.
struct FourDraws {
  Random4 bits;
  int64_t first;

  __device__ explicit FourDraws(const Draws& given) {
    const Draws draws = given.now();
    const int64_t block = draws.first_index / 4 + thread_index();
    bits = philox(draws.key, static_cast<uint64_t>(block));
    first = block * 4 - draws.first_index;
  }
};
// Wherever in a Philox block the tensor begins.
unsigned blocks_for_draws(int64_t n) { return n == 0 ? 0 : blocks_for((n + 6) / 4, kThreads); }
bool begins_a_block(const Draws& draws) { return draws.first_index % 4 == 0 && draws.per_sequence % 4 == 0; }

template <class T, bool kPacked>
__global__ void jitter_kernel(T* x, int64_t n, float eps, Draws given) {
  const FourDraws draws(given);
  const auto factor = [&](int k) { return fmaf(eps, fmaf(2.0f, uniform_from_bits(draws.bits[k]), -1.0f), 1.0f); };
  if (kPacked && draws.first + 4 <= n) {
    auto pack = *reinterpret_cast<Pack<T, 4>*>(x + draws.first);
#pragma unroll
    for (int k = 0; k < 4; ++k) store(pack.at[k], to_float(pack.at[k]) * factor(k));
    *reinterpret_cast<Pack<T, 4>*>(x + draws.first) = pack;
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int64_t i = draws.first + k;
    if (i >= 0 && i < n) store(x[i], to_float(x[i]) * factor(k));
  }
}

// A uniform draw is below p exactly where its 24 bits are below ⌈p·2^24⌉.
uint32_t drop_threshold(double p) { return static_cast<uint32_t>(std::ceil(p * 0x1p24)); }

__global__ void mask_scores_kernel(float* scores, int64_t n, float value, uint32_t threshold, Draws given) {
  const FourDraws draws(given);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int64_t i = draws.first + k;
    if (i >= 0 && i < n && draws.bits[k] >> 8 < threshold) scores[i] = value;
  }
}

__global__ void drop_choices_kernel(int32_t* out, const int32_t* blocks, int64_t choices, int64_t per_token,
                                    int64_t block_count, uint32_t threshold, Draws given) {
  const int64_t c = thread_index();
  if (c >= choices) return;
  const int32_t block = blocks[c];
  const Draws of_pass = given.now();
  const auto index = static_cast<uint64_t>(of_pass.first_index + c / per_token * block_count + block);
  const Random4 draws = philox(of_pass.key, index / 4);
  const uint32_t low = index & 1 ? draws[1] : draws[0], high = index & 1 ? draws[3] : draws[2];
  const uint32_t bits = index & 2 ? high : low;
  out[c] = block < 0 || bits >> 8 < threshold ? -1 : block;
}

}  // namespace

void noisy_scores_forward(Stream& stream, Tensor noisy, const Tensor& logits, const Tensor& spread,
                          const Draws& draws) {
  const int64_t n = logits.numel();
  launch(stream, noisy_scores_forward_kernel, {blocks_for(n, kThreads), kThreads},
         Work{bytes_of(noisy, logits, spread)}, noisy.data<float>(), logits.data<float>(), spread.data<float>(), n,
         draws);
}

void noisy_scores_backward(Stream& stream, Tensor dlogits, Tensor dspread, const Tensor& dnoisy, const Tensor& spread,
                           const Draws& draws) {
  const int64_t n = dnoisy.numel();
  launch(stream, noisy_scores_backward_kernel, {blocks_for(n, kThreads), kThreads},
         Work{bytes_of(dlogits, dlogits, dspread, dspread, dnoisy, spread)}, dlogits.data<float>(),
         dspread.data<float>(), dnoisy.data<float>(), spread.data<float>(), n, draws);
}

void jitter(Stream& stream, Tensor x, double eps, const Draws& draws) {
  const int64_t n = x.numel();
  const bool packed = is_aligned(x.raw()) && begins_a_block(draws);
  with_activation_type("jitter", x, [&]<class T>(T) {
    launch(stream, packed ? jitter_kernel<T, true> : jitter_kernel<T, false>, {blocks_for_draws(n), kThreads},
           Work{bytes_of(x, x)}, x.data<T>(), n, eps, draws);
  });
}

void mask_scores(Stream& stream, Tensor scores, double value, const Dropout& d) {
  const int64_t n = scores.numel();
  launch(stream, mask_scores_kernel, {blocks_for_draws(n), kThreads}, Work{d.probability * bytes_of(scores)},
         scores.data<float>(), n, value, drop_threshold(d.probability), d.draws);
}

void drop_choices(Stream& stream, Tensor out, const Tensor& blocks, int64_t block_count, const Dropout& d) {
  const int64_t choices = blocks.numel();
  launch(stream, drop_choices_kernel, {blocks_for(choices, kThreads), kThreads}, Work{bytes_of(out, blocks)},
         out.data<int32_t>(), blocks.data<int32_t>(), choices, blocks.cols(), block_count,
         drop_threshold(d.probability), d.draws);
}

}  // namespace sffn::cuda
