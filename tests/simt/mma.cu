#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/runtime.h"

#include "simt/mma.h"

namespace sffn::test {
namespace {

using namespace cuda;

constexpr int kStride = 40;

// sum[i] of columns 8i … 8i + 7
__global__ void products(float* c, const bfloat16* a, const bfloat16* b, Layout layout) {
  alignas(16) __shared__ bfloat16 left[32 * kStride], right[32 * kStride];
  const int lane = lane_of_warp();
  const bool across = layout != Layout::kAlongDepth;
  for (int e = lane; e < 16 * 32; e += 32) {
    const int m = e / 32, k = e % 32;
    left[across ? k * kStride + m : m * kStride + k] = a[m * 32 + k];
    right[across ? k * kStride + m : m * kStride + k] = b[k * 16 + m];
  }
  __syncwarp();
  FragmentC sum[2] = {};
  for (int k = 0; k < 32; k += 16) {
    FragmentA fa;
    FragmentB fb[2];
    if (across) {
      load_a_transposed(fa, left + k * kStride, kStride);
      load_b_columns_transposed(fb, right + k * kStride, kStride);
    } else {
      load_a(fa, left + k, kStride);
      load_b_columns(fb, right + k, kStride);
    }
    if (layout == Layout::kAcrossByDepths) {
      for (int i = 0; i < 2; ++i) {
        FragmentB depths[2];
        load_b_depths_transposed(depths, right + 8 * i, kStride);
        fb[i] = depths[k / 16];
      }
    }
    for (int i = 0; i < 2; ++i) multiply_add(sum[i], fa, fb[i]);
  }
  for (int i = 0; i < 2; ++i) {
    for (int e = 0; e < 4; ++e) c[(lane / 4 + e / 2 * 8) * 16 + 8 * i + lane % 4 * 2 + e % 2] = sum[i].at[e];
  }
}

__global__ void chained_products(float* c, const bfloat16* a, const bfloat16* b, const bfloat16* choice) {
  alignas(16) __shared__ bfloat16 left[16 * kStride], right[32 * kStride], next[16 * kStride];
  const int lane = lane_of_warp();
  for (int e = lane; e < 16 * 32; e += 32) {
    left[e / 32 * kStride + e % 32] = a[e];
    right[e / 16 * kStride + e % 16] = b[e];
    if (e < 16 * 16) next[e / 16 * kStride + e % 16] = choice[e];
  }
  __syncwarp();
  FragmentC sum[2] = {}, chained[2] = {};
  FragmentB fb[2];
  for (int k = 0; k < 32; k += 16) {
    FragmentA fa;
    load_a(fa, left + k, kStride);
    load_b_columns_transposed(fb, right + k * kStride, kStride);
    for (int i = 0; i < 2; ++i) multiply_add(sum[i], fa, fb[i]);
  }
  load_b_columns_transposed(fb, next, kStride);
  for (int i = 0; i < 2; ++i) multiply_add(chained[i], as_factor(sum[0], sum[1]), fb[i]);
  for (int i = 0; i < 2; ++i) {
    for (int e = 0; e < 4; ++e) c[(lane / 4 + e / 2 * 8) * 16 + 8 * i + lane % 4 * 2 + e % 2] = chained[i].at[e];
  }
}

__global__ void copies(float* y, const float* x) {
  alignas(16) __shared__ float s[3][4];
  const int me = static_cast<int>(threadIdx.x);
  copy_async<4>(&s[1][me], x + 4 + me, true);
  commit_copies();
  copy_async<4>(&s[0][me], x + me, true);
  if (me == 0) copy_async<16>(s[2], x + 8, false);
  commit_copies();
  wait_for_copies<1>();
  y[me] = s[0][me], y[4 + me] = s[1][me];
  wait_for_copies<0>();
  __syncthreads();
  y[8 + me] = s[2][me];
}

__global__ void misaligned_copy(float* y, const float* x) {
  alignas(16) __shared__ float s[4];
  copy_async<16>(s, x + 1, true);
  commit_copies();
  wait_for_copies<0>();
  y[threadIdx.x] = s[0];
}

__global__ void misaligned_load(float* y) {
  alignas(16) __shared__ bfloat16 s[64];
  for (int e = lane_of_warp(); e < 64; e += 32) s[e] = 0.0f;
  __syncwarp();
  uint32_t to[4];
  load_matrices<false>(to, s + 1);
  y[threadIdx.x] = static_cast<float>(to[0]);
}

template <class... Args>
void run_to_the_end(Args&&... args) {
  Stream stream(cuda_runtime());
  launch(stream, std::forward<Args>(args)...);
  stream.synchronize();
}

}  // namespace

void run_products(float* c, const bfloat16* a, const bfloat16* b, Layout layout) {
  run_to_the_end(products, LaunchShape{1, 32}, Work{}, c, a, b, layout);
}
void run_chained_products(float* c, const bfloat16* a, const bfloat16* b, const bfloat16* choice) {
  run_to_the_end(chained_products, LaunchShape{1, 32}, Work{}, c, a, b, choice);
}
void run_copies(float* y, const float* x) { run_to_the_end(copies, LaunchShape{1, 4}, Work{}, y, x); }
void run_misaligned_copy(float* y, const float* x) { run_to_the_end(misaligned_copy, LaunchShape{1, 1}, Work{}, y, x); }
void run_misaligned_load(float* y) { run_to_the_end(misaligned_load, LaunchShape{1, 32}, Work{}, y); }

}  // namespace sffn::test
