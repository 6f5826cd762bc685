// hash_blocks:    blocks[n] = the first b places of the permutation of B blocks that belongs to ids[n], ascending
// lookup_blocks:  blocks[n] = table[ids[n]]
//                                  blocks [N,b] i32, or [N] where they are looked up  ids [N] i32  table [V] i32
// A warp hashes one token: its lanes draw the b blocks into a set of bits in shared memory, which is then read in
// order. A set holds 65,536 blocks; where there are more, the draws are made again for each part of them.
#include "core/random.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int64_t kMostBits = 65'536;  // 8 KiB a warp

struct Hash {
  uint64_t seed;
  int64_t layer, block_count;
};

// Writes the places of the set bits, ascending; returns how many. By one warp.
__device__ int write_set(int32_t* out, const uint32_t* words, int word_count, int64_t first_block) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int written = 0;
  for (int first = 0; first < word_count; first += 32) {
    uint32_t word = first + lane < word_count ? words[first + lane] : 0;
    const int count = __popc(word), up_to = warp_inclusive_scan(count);
    int32_t* to = out + written + up_to - count;
    for (; word != 0; word &= word - 1) {
      *to++ = static_cast<int32_t>(first_block + (first + lane) * 32 + __ffs(static_cast<int>(word)) - 1);
    }
    written += __shfl_sync(0xffffffffu, up_to, 31);
  }
  return written;
}

__global__ void hash_blocks_kernel(int32_t* blocks, const int32_t* ids, int64_t tokens, int64_t per_token, Hash hash,
                                   int word_count) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t n = int64_t{blockIdx.x} * kWarps + warp;
  if (n >= tokens) return;
  uint32_t* words = dynamic_shared<uint32_t>() + warp * word_count;
  const Permutation permutation(random_key(hash.seed, RandomSite::kHashBlocks, hash.layer, ids[n]),
                                static_cast<uint64_t>(hash.block_count));
  int32_t* out = blocks + n * per_token;
  for (int64_t first = 0; first < hash.block_count; first += int64_t{word_count} * 32) {
    for (int w = lane; w < word_count; w += 32) words[w] = 0;  // the words that this lane reads
    __syncwarp();
    for (int64_t i = lane; i < per_token; i += 32) {
      const int64_t bit = static_cast<int64_t>(permutation(static_cast<uint64_t>(i))) - first;
      if (bit >= 0 && bit < int64_t{word_count} * 32) atomicOr(&words[bit / 32], 1u << (bit % 32));
    }
    __syncwarp();
    out += write_set(out, words, word_count, first);
  }
}

__global__ void lookup_blocks_kernel(int32_t* blocks, const int32_t* ids, const int32_t* table, int64_t tokens) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n < tokens) blocks[n] = table[ids[n]];
}

}  // namespace

void hash_blocks(Stream& stream, Tensor blocks, const Tensor& ids, uint64_t seed, int64_t layer, int64_t block_count) {
  const int64_t tokens = ids.numel(), words = (std::min(block_count, kMostBits) + 31) / 32;
  launch(stream, hash_blocks_kernel,
         {blocks_for(tokens, kWarps), 32 * kWarps, static_cast<size_t>(kWarps * words) * sizeof(uint32_t)},
         Work{bytes_of(blocks, ids)}, blocks.data<int32_t>(), ids.data<int32_t>(), tokens, blocks.cols(),
         Hash{seed, layer, block_count}, words);
}

void lookup_blocks(Stream& stream, Tensor blocks, const Tensor& ids, const Tensor& table) {
  constexpr int kThreads = 256;
  launch(stream, lookup_blocks_kernel, {blocks_for(ids.numel(), kThreads), kThreads},
         Work{bytes_of(blocks, ids) + bytes_for<int32_t>(std::min(ids.numel(), table.numel()))}, blocks.data<int32_t>(),
         ids.data<int32_t>(), table.data<int32_t>(), ids.numel());
}

}  // namespace sffn::cuda
