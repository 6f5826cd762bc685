// The operations of kernels/cuda/wgmma.cuh, decoded from matrix descriptors as the PTX ISA has them. Products happen as
// late as the GPU may do them, when they are waited for, but in the forward schedule as early, when they are asked for:
// a factor that changes in between gives other results in one of the schedules. Until its products are waited for, a
// sum is NaN.
#pragma once
#include "cuda_runtime.h"
#include "simt/executor.h"

#include <cstdint>
#include <cstring>
#include <limits>

namespace simt {

namespace warpgroup {

// A factor in shared memory with the swizzle of 128 bytes.
class Factor {
 public:
  // across: 64 elements of one depth lie in a row; else 16 depths of one element do.
  Factor(uint64_t descriptor, bool across, const Site& site)
      : address_(descriptor & 0x3fff),
        leading_((descriptor >> 16) & 0x3fff),
        stride_((descriptor >> 32) & 0x3fff),
        across_(across),
        site_(site) {
    address_ *= 16, leading_ *= 16, stride_ *= 16;
  }
  // Of row (of A) or column (of B) i and depth k.
  float at(int i, int k) const {
    const auto row = static_cast<uint32_t>(across_ ? k : i), column = static_cast<uint32_t>(across_ ? i : k);
    const uint32_t linear = address_ + column / 64 * leading_ + row / 8 * stride_ + row % 8 * 128 + column % 64 * 2;
    const uint32_t swizzled = linear ^ (linear >> 7 & 7) << 4;
    uint16_t bits = 0;
    std::memcpy(&bits, shared_memory_at(swizzled, sizeof bits, site_), sizeof bits);
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }

 private:
  uint32_t address_, leading_, stride_;
  bool across_;
  Site site_;
};

struct Product {
  uint64_t a, b;
  bool left_across, across;  // a, b
  unsigned group;
  Site site;
};
// Of a CUDA thread; plain memory, as that of copies (tensor_core.h).
struct Products {
  static constexpr int kMostSums = 128, kMost = 16;
  float* sums;  // null: none under way
  int count, waiting;
  float values[kMostSums];  // of sums, with the products that are done
  Product list[kMost];
  unsigned groups;  // ended so far
  uint64_t block;   // whose these are
  bool begun;
};
inline Products& products() {
  static thread_local Products all[512];
  Products& mine = all[thread_number() % 512];
  if (mine.block != block_number()) {  // what a kernel that failed has left
    mine.block = block_number();
    mine.sums = nullptr, mine.waiting = 0, mine.begun = false;
  }
  return mine;
}

// What this thread has of a product of 64 rows: 16 a warp, fragments as those of mma.
inline void add(Products& mine, const Product& product) {
  const Factor a(product.a, product.left_across, product.site), b(product.b, product.across, product.site);
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4, g = lane() / 4, t = lane() % 4;
  float left[2][16];
  for (int e = 0; e < 32; ++e) left[e / 16][e % 16] = a.at(16 * warp + g + 8 * (e / 16), e % 16);
  for (int j = 0; 4 * j < mine.count; ++j) {
    for (int c = 0; c < 2; ++c) {
      for (int k = 0; k < 16; ++k) {
        const float right = b.at(8 * j + 2 * t + c, k);
        for (int r = 0; r < 2; ++r) mine.values[4 * j + 2 * r + c] += left[r][k] * right;
      }
    }
  }
}

}  // namespace warpgroup

inline void publish_copies() { note_published(); }

inline void begin_products() { warpgroup::products().begun = true; }

inline void add_products(float* sums, int fragments, uint64_t a, uint64_t b, bool left_across, bool across, bool add,
                         SIMT_HERE) {
  warpgroup::Products& mine = warpgroup::products();
  for (const uint64_t descriptor : {a, b}) {
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0)
      fail("multiplies a matrix of another layout", {file, line});
  }
  if (blockDim.x % 128 != 0 || blockDim.x > 512 || blockDim.y * blockDim.z != 1) {
    fail("multiplies in a block that is not of one to four warpgroups", {file, line});
  }
  if (!mine.begun) fail("multiplies without begin_products", {file, line});
  if (mine.sums != nullptr && (mine.sums != sums || mine.count != 4 * fragments)) {
    fail("has products of two sums under way", {file, line});
  }
  if (mine.waiting == warpgroup::Products::kMost) fail("has more than 16 products under way", {file, line});
  note_product(a, b, {file, line});
  if (mine.sums == nullptr) {
    mine.sums = sums, mine.count = 4 * fragments;
    std::memcpy(mine.values, sums, static_cast<size_t>(mine.count) * sizeof(float));
    std::fill_n(sums, mine.count, std::numeric_limits<float>::quiet_NaN());
  }
  if (!add) {
    if (mine.waiting > 0) fail("begins a sum anew while products of it are under way", {file, line});
    std::fill_n(mine.values, mine.count, 0.0f);
  }
  const warpgroup::Product product{a, b, left_across, across, mine.groups, {file, line}};
  if (options().schedule == Schedule::kForward) warpgroup::add(mine, product);
  mine.list[mine.waiting++] = product;
}

inline void commit_products() {
  ++warpgroup::products().groups;
  warpgroup::products().begun = false;
}

inline void wait_for_products(unsigned left) {
  warpgroup::Products& mine = warpgroup::products();
  int later = 0;
  for (int i = 0; i < mine.waiting; ++i) {
    const warpgroup::Product product = mine.list[i];
    if (mine.groups - product.group <= left) {
      mine.list[later++] = product;
    } else if (options().schedule != Schedule::kForward) {
      warpgroup::add(mine, product);
    }
  }
  mine.waiting = later;
  if (later > 0 || mine.sums == nullptr) return;
  std::memcpy(mine.sums, mine.values, static_cast<size_t>(mine.count) * sizeof(float));
  mine.sums = nullptr;
}

}  // namespace simt
