// Factors of products on tensor cores, in shared memory: panels of rows of 64 bf16. The pieces of 8 elements of row r
// lie in the order c ^ (r % 8), so that one piece of 8 rows lies in 32 different banks; wgmma calls it the 128-byte
// swizzle. A panel holds a factor either along the depth of the product, [m][k] or [n][k], or across it, [k][m] or
// [k][n]; then 64 columns have a panel each.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/unroll.cuh"

namespace sffn::cuda {

inline constexpr int kPanelWidth = 64, kPiece = 8, kPanelPieces = kPanelWidth / kPiece;
inline constexpr int kPanelAlignment = 1024;  // bytes; what the swizzle of wgmma repeats after

// The launch's dynamic shared memory from the first place where a panel may begin: kPanelAlignment bytes more are
// needed.
template <class Stage>
__device__ __forceinline__ Stage* panels_of_block() {
  auto* memory = dynamic_shared<unsigned char>();
  return reinterpret_cast<Stage*>(memory + (kPanelAlignment - reinterpret_cast<uintptr_t>(memory) % kPanelAlignment));
}

template <class T>
__device__ __forceinline__ T* piece_at(T* panel, int row, int piece) {
  return panel + row * kPanelWidth + (piece ^ (row % 8)) * kPiece;
}

// A of rows m…m + 15 and depths k…k + 15 at panel[m][k]
__device__ __forceinline__ void load_a_along(FragmentA& a, const bfloat16* panel, int m, int k) {
  const int lane = lane_of_warp();
  load_matrices<false>(a.pair, piece_at(panel, m + lane % 16, k / kPiece + lane / 16));
}
// The same at panel[k][m]
__device__ __forceinline__ void load_a_across(FragmentA& a, const bfloat16* panel, int m, int k) {
  const int lane = lane_of_warp();
  load_matrices<true>(a.pair, piece_at(panel, k + lane / 16 * 8 + lane % 8, m / kPiece + lane / 8 % 2));
}
// Two B of columns n…n + 7 and n + 8…n + 15 and depths k…k + 15 at panel[n][k]
__device__ __forceinline__ void load_b_along(FragmentB (&b)[2], const bfloat16* panel, int n, int k) {
  const int lane = lane_of_warp();
  uint32_t pairs[4];
  load_matrices<false>(pairs, piece_at(panel, n + lane / 16 * 8 + lane % 8, k / kPiece + lane / 8 % 2));
  b[0] = {{pairs[0], pairs[1]}}, b[1] = {{pairs[2], pairs[3]}};
}
// The same at panel[k][n]
__device__ __forceinline__ void load_b_across(FragmentB (&b)[2], const bfloat16* panel, int n, int k) {
  const int lane = lane_of_warp();
  uint32_t pairs[4];
  load_matrices<true>(pairs, piece_at(panel, k + lane % 16, n / kPiece + lane / 16));
  b[0] = {{pairs[0], pairs[1]}}, b[1] = {{pairs[2], pairs[3]}};
}

// The thread's share of the copies to the first kPieces pieces of kRows rows of a panel. from(row, column) is where a
// piece begins in global memory, or null: zeros.
template <int kRows, int kPieces, int kThreads, class From>
__device__ __forceinline__ void ask_panel(bfloat16* panel, const bfloat16* any, From&& from) {
  constexpr int kStep = kThreads / kPieces, kShare = (kRows + kStep - 1) / kStep;
  const int me = static_cast<int>(threadIdx.x), piece = me % kPieces;
  SFFN_UNROLL for (int i = 0; i < kShare; ++i) {
    const int row = me / kPieces + i * kStep;
    if (kRows % kStep != 0 && row >= kRows) break;
    const bfloat16* source = from(row, piece * kPiece);
    copy_async<16>(piece_at(panel, row, piece), source != nullptr ? source : any, source != nullptr);
  }
}

// Four neighbouring lanes hold a word each of four items: word[i] of item i. Lane t of them gets those of item t.
__device__ __forceinline__ void exchange_items(uint32_t (&word)[4]) {
  const int t = lane_of_warp() % 4;
  SFFN_UNROLL for (int lanes = 1; lanes <= 2; ++lanes) {
    const bool upper = (t & lanes) != 0;
    SFFN_UNROLL for (int i = 0; i < 2; ++i) {
      const int low = lanes == 1 ? 2 * i : i, high = low + lanes;
      const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? word[low] : word[high], lanes);
      word[low] = upper ? other : word[low], word[high] = upper ? word[high] : other;
    }
  }
}

// A warp has 8 rows of results (FragmentC), rounded to bf16: word[i] has column first + 8·i + 2·t of the lane's row and
// its neighbour. On their way to memory and back four words are 16 bytes of the row where kPacks: rows and `end` are
// then whole 16 bytes. row null: none. Columns end before `end`.
template <bool kPacks, int kWords>
__device__ __forceinline__ void exchange_words(uint32_t (&word)[kWords]) {
  if constexpr (kPacks && kWords == 4) exchange_items(word);
}
// Words after exchange_words.
template <bool kPacks, int kWords>
__device__ __forceinline__ void store_words(bfloat16* row, const uint32_t (&word)[kWords], int first, int end) {
  const int t = lane_of_warp() % 4;
  if constexpr (kPacks && kWords == 4) {
    const int c = first + 8 * t;
    if (row != nullptr && c < end) *reinterpret_cast<uint4*>(row + c) = make_uint4(word[0], word[1], word[2], word[3]);
  } else {
    SFFN_UNROLL for (int i = 0; i < kWords; ++i) {
      const int c = first + 8 * i + 2 * t;
      if (row == nullptr || c >= end) continue;
      if (kPacks) {
        *reinterpret_cast<uint32_t*>(row + c) = word[i];
      } else {
        row[c] = low_of(word[i]);
        if (c + 1 < end) row[c + 1] = high_of(word[i]);
      }
    }
  }
}
// As store_words puts them; what does not exist is zero.
template <bool kPacks, int kWords>
__device__ __forceinline__ void load_words(uint32_t (&word)[kWords], const bfloat16* row, int first, int end) {
  const int t = lane_of_warp() % 4;
  if constexpr (kPacks && kWords == 4) {
    const int c = first + 8 * t;
    const bool there = row != nullptr && c < end;
    const uint4 piece = there ? *reinterpret_cast<const uint4*>(row + c) : make_uint4(0, 0, 0, 0);
    word[0] = piece.x, word[1] = piece.y, word[2] = piece.z, word[3] = piece.w;
  } else {
    SFFN_UNROLL for (int i = 0; i < kWords; ++i) {
      const int c = first + 8 * i + 2 * t;
      word[i] = 0;
      if (row == nullptr || c >= end) continue;
      if (kPacks) {
        word[i] = *reinterpret_cast<const uint32_t*>(row + c);
      } else {
        word[i] = row[c].bits | (c + 1 < end ? uint32_t{row[c + 1].bits} << 16 : 0);
      }
    }
  }
}

// A sum along its depth, a step in each of kStages stages in turn: ask(stage) starts the copies of the next step, and
// says whether there was one; multiply(stage) uses them. The copies of kStages - 1 steps are under way at once.
template <int kStages, class Ask, class Multiply>
__device__ __forceinline__ void run_stages(Ask&& ask, Multiply&& multiply) {
  int left = 0;  // steps asked for and not multiplied
  SFFN_UNROLL for (int s = 0; s < kStages - 1; ++s) {
    left += ask(s) ? 1 : 0;
    commit_copies();
  }
  for (int stage = 0; left > 0; --left) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this step is there, and all have done with the one before
    left += ask(stage == 0 ? kStages - 1 : stage - 1) ? 1 : 0;
    commit_copies();
    multiply(stage);
    stage = stage + 1 < kStages ? stage + 1 : 0;
  }
}

}  // namespace sffn::cuda
