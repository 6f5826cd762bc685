// The warp-wide operations of kernels/cuda/mma.cuh, element by element, as the PTX ISA lays their fragments out. Lanes
// show one another what they hold (simt::gather_warp); each then computes what it gets. Copies to shared memory happen
// as late as CUDA may do them: until they are waited for, their place holds NaN.
#pragma once
#include "cuda_runtime.h"
#include "simt/executor.h"

#include <cstdint>
#include <cstring>

namespace simt {

namespace tensor_core {

struct Copy {
  void* to;
  const void* from;  // null: zeros
  unsigned bytes, group;
};
struct Copies {
  static constexpr int kMost = 64;
  Copy waiting[kMost];
  int count;
  unsigned groups;  // ended so far
  unsigned block;   // whose these are
};
// Of the calling CUDA thread. Plain memory, zero at first: what is made at first use would look like a race between the
// CUDA threads.
inline Copies& copies() {
  static Copies all[kIdentities][1024];
  return all[identity()][thread_number()];
}

}  // namespace tensor_core

// c += a·b of 16·16 and 16·8 elements (tensor_core.cpp).
void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_HERE);

template <bool kTransposed, class T>
void load_matrices(uint32_t (&to)[4], const T* row, SIMT_HERE) {
  static_assert(sizeof(T) == 2);
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    fail("loads a row of a matrix that is not aligned to 16 bytes", {file, line});
  const std::byte* all = gather_warp(&row, sizeof row, {file, line});
  const int g = lane() / 4, t = lane() % 4;
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto element = [&](int r, int c) {
      const T* from = nullptr;
      std::memcpy(&from, all + static_cast<size_t>(8 * matrix + r) * kGatherBytes, sizeof from);
      uint16_t bits = 0;
      std::memcpy(&bits, from + c, sizeof bits);
      return static_cast<uint32_t>(bits);
    };
    const uint32_t low = kTransposed ? element(2 * t, g) : element(g, 2 * t);
    const uint32_t high = kTransposed ? element(2 * t + 1, g) : element(g, 2 * t + 1);
    to[matrix] = low | high << 16;
  }
}

inline void store_matrices(void* row, const uint32_t* word, SIMT_HERE) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    fail("stores a row of a matrix that is not aligned to 16 bytes", {file, line});
  const std::byte* all = gather_warp(word, 4 * sizeof *word, {file, line});
  const int r = lane() % 8, matrix = lane() / 8;
  for (int t = 0; t < 4; ++t) {
    uint32_t pair = 0;
    std::memcpy(&pair, all + static_cast<size_t>(4 * r + t) * kGatherBytes + sizeof pair * matrix, sizeof pair);
    std::memcpy(static_cast<std::byte*>(row) + sizeof pair * t, &pair, sizeof pair);
  }
}

inline void copy_async(void* to, const void* from, unsigned bytes, SIMT_HERE) {
  tensor_core::Copies& copies = tensor_core::copies();
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  if (copies.count > 0 && copies.block != block) {
    copies.count = 0;
    fail("copies in a block after one that did not wait for its own", {file, line});
  }
  copies.block = block;
  if (copies.count == tensor_core::Copies::kMost) fail("has more than 64 copies under way", {file, line});
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    fail("copies between addresses that are not aligned to what is copied", {file, line});
  }
  std::memset(to, 0xff, bytes);
  copies.waiting[copies.count++] = {to, from, bytes, copies.groups};
}

inline void commit_copies() { ++tensor_core::copies().groups; }

inline void wait_for_copies(unsigned left) {
  tensor_core::Copies& copies = tensor_core::copies();
  int later = 0;
  for (int i = 0; i < copies.count; ++i) {
    const tensor_core::Copy copy = copies.waiting[i];
    if (copies.groups - copy.group <= left) {
      copies.waiting[later++] = copy;
      continue;
    }
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, copy.bytes);
    } else {
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
    note_copied();
  }
  copies.count = later;
}

}  // namespace simt
