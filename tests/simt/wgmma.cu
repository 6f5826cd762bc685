#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/wgmma_held.cuh"

#include "simt/wgmma.h"

namespace sffn::test {
namespace {

using namespace cuda;

constexpr int kRows = 64, kDepth = 64, kThreads = 128, kPanel = kRows * kPanelWidth;

// rows × 64 elements of [rows][stride] to a panel
__device__ void copy_panel(bfloat16* panel, const bfloat16* from, int rows, int stride) {
  for (int e = static_cast<int>(threadIdx.x); e < rows * kPanelPieces; e += kThreads) {
    const int row = e / kPanelPieces, piece = e % kPanelPieces;
    copy_async<16>(piece_at(panel, row, piece), from + row * stride + piece * kPiece, true);
  }
}

template <int kN>
__device__ void write(float* c, const FragmentC (&sum)[kN]) {
  const int lane = lane_of_warp(), row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  for (int j = 0; j < kN; ++j) {
    for (int e = 0; e < 4; ++e) c[(row + e / 2 * 8) * 8 * kN + 8 * j + lane % 4 * 2 + e % 2] = sum[j].at[e];
  }
}

// Both factors, ready to be multiplied.
template <int kN, bool kAcross>
__device__ void copy_factors(bfloat16* left, bfloat16* right, const bfloat16* a, const bfloat16* b) {
  copy_panel(left, a, kRows, kDepth);
  if (kAcross) {
    for (int panel = 0; panel < kN / 8; ++panel) copy_panel(right + panel * kPanel, b + panel * 64, kDepth, 8 * kN);
  } else {
    copy_panel(right, b, 8 * kN, kDepth);
  }
  commit_copies();
  wait_for_copies<0>();
  publish_copies();
  __syncthreads();
}

template <int kN, bool kAcross, bool kLeftAcross>
__global__ void warpgroup_products(float* c, const bfloat16* a, const bfloat16* b) {
  auto *left = panels_of_block<bfloat16>(), *right = left + kPanel;
  copy_factors<kN, kAcross>(left, right, a, b);
  FragmentC sum[kN] = {};
  begin_products();
  for (int k = 0; k < kDepth; k += 16) {
    add_products<kAcross, kLeftAcross>(sum,
                                       kLeftAcross ? describe_across(left, kPanel * 2, k) : describe_along(left, 0, k),
                                       kAcross ? describe_across(right, kPanel * 2, k) : describe_along(right, 0, k));
  }
  commit_products();
  wait_for_products<0>(sum);
  write(c, sum);
}

// Both halves of c as sums of their own, under way at once; a in registers
template <int kN, bool kAcross>
__global__ void held_products(float* c, const bfloat16* a, const bfloat16* b) {
  auto *left = panels_of_block<bfloat16>(), *right = left + kPanel;
  copy_factors<kN, kAcross>(left, right, a, b);
  FragmentC sum[2][kN / 2];
  FragmentA held[kDepth / 16];
  for (int k = 0; k < kDepth; k += 16) load_a_along(held[k / 16], left, static_cast<int>(threadIdx.x) / 32 * 16, k);
  begin_products();
  for (int half = 0; half < 2; ++half) {
    const bfloat16* from = right + half * 4 * kN * kPanelWidth;
    for (int k = 0; k < kDepth; k += 16) {
      add_products_of_held<kAcross>(sum[half], held[k / 16],
                                    kAcross ? describe_across(from, kPanel * 2, k) : describe_along(from, 0, k), k > 0);
    }
    commit_products();
    begin_products();
  }
  finish_products<1>(sum[0]);
  FragmentC all[kN];
  for (int j = 0; j < kN / 2; ++j) all[j] = sum[0][j];
  finish_products<0>(sum[1]);
  for (int j = 0; j < kN / 2; ++j) all[kN / 2 + j] = sum[1][j];
  write(c, all);
}

__global__ void warpgroup_step(float* c, const bfloat16* a, const bfloat16* b, Fault fault) {
  alignas(1024) __shared__ bfloat16 fixed[kPanel];
  auto *left = panels_of_block<bfloat16>(), *right = left + kPanel;
  copy_panel(left, a, kRows, kDepth);
  copy_panel(right, b, kRows, kDepth);
  copy_panel(fixed, a, kRows, kDepth);
  commit_copies();
  wait_for_copies<0>();
  if (fault != Fault::kNotPublished) publish_copies();
  __syncthreads();
  FragmentC sum[8] = {};
  const bool other = fault == Fault::kOtherProducts && threadIdx.x < 32;
  if (fault != Fault::kNotBegun) begin_products();
  for (int k = 0; k < kDepth; k += 16) {
    if (fault == Fault::kDiverged && threadIdx.x % 32 < 16) continue;
    const bfloat16* from = fault == Fault::kStaticMemory ? fixed : left;
    add_products<false>(sum, describe_along(from, fault == Fault::kBeyondEnd ? 96 : 0, k),
                        describe_along(right, 0, other ? 16 : k));
  }
  commit_products();
  if (fault == Fault::kNotWaitedFor) write(c, sum);
  if (fault == Fault::kOverwritten) {
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < kPanel; e += kThreads) left[e] = 0.0f;
    __syncthreads();
  }
  wait_for_products<0>(sum);
  if (fault != Fault::kNotWaitedFor) write(c, sum);
}

// Twice, so that the second rows may meet the first in shared memory.
__global__ void turned_rows(bfloat16* y, int shift) {
  alignas(16) __shared__ bfloat16 turned[kTurnedRows * kPanelWidth + kPiece];
  const int lane = lane_of_warp();
  for (int turn = 0; turn < 2; ++turn) {
    uint32_t word[8];
    uint4 piece[2];
    for (uint32_t j = 0; j < 8; ++j) {
      const uint32_t e = (turn * 8 + lane / 4) * 64 + 8 * j + lane % 4 * 2;
      word[j] = e | (e + 1) << 16;
    }
    turn_rows(piece, word, turned + shift);
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<uint4*>(y + (turn * 8 + 4 * i + lane / 8) * 64 + lane % 8 * kPiece) = piece[i];
    }
  }
}

template <class... Args>
void run_to_the_end(Args&&... args) {
  Stream stream(cuda_runtime());
  launch(stream, std::forward<Args>(args)...);
  stream.synchronize();
}

template <int kN>
void run(float* c, const bfloat16* a, const bfloat16* b, bool left_across, bool across) {
  const LaunchShape shape{1, kThreads, (kRows + 8 * kN) * kPanelWidth * sizeof(bfloat16) + kPanelAlignment};
  run_to_the_end(left_across ? warpgroup_products<kN, true, true>
                 : across    ? warpgroup_products<kN, true, false>
                             : warpgroup_products<kN, false, false>,
                 shape, Work{}, c, a, b);
}

}  // namespace

void run_warpgroup_products(float* c, const bfloat16* a, const bfloat16* b, int n, bool left_across, bool across) {
  n == 64    ? run<8>(c, a, b, left_across, across)
  : n == 128 ? run<16>(c, a, b, left_across, across)
             : run<32>(c, a, b, left_across, across);
}
void run_held_products(float* c, const bfloat16* a, const bfloat16* b, int n, bool across) {
  const auto run = [&]<int kN>(std::integral_constant<int, kN>) {
    const LaunchShape shape{1, kThreads, (kRows + 8 * kN) * kPanelWidth * sizeof(bfloat16) + kPanelAlignment};
    run_to_the_end(across ? held_products<kN, true> : held_products<kN, false>, shape, Work{}, c, a, b);
  };
  n == 128 ? run(std::integral_constant<int, 16>()) : run(std::integral_constant<int, 32>());
}
void run_turned_rows(bfloat16* y, int shift) { run_to_the_end(turned_rows, LaunchShape{1, 32}, Work{}, y, shift); }
void run_warpgroup_step(float* c, const bfloat16* a, const bfloat16* b, Fault fault) {
  run_to_the_end(warpgroup_step, LaunchShape{1, kThreads, 2 * kPanel * sizeof(bfloat16) + kPanelAlignment}, Work{}, c,
                 a, b, fault);
}

}  // namespace sffn::test
