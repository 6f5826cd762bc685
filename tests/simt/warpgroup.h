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
        window_(shared_window()),
        site_(site) {
    address_ *= 16, leading_ *= 16, stride_ *= 16;
  }
  // Of row (of A) or column (of B) i and depth k.
  float at(int i, int k) const {
    const auto row = static_cast<uint32_t>(across_ ? k : i), column = static_cast<uint32_t>(across_ ? i : k);
    const uint32_t linear = address_ + column / 64 * leading_ + row / 8 * stride_ + row % 8 * 128 + column % 64 * 2;
    const uint32_t swizzled = linear ^ (linear >> 7 & 7) << 4;
    uint16_t bits = 0;
    if (swizzled < window_.first || swizzled - window_.first + sizeof bits > window_.bytes) {
      fail("multiplies a matrix that reaches beyond dynamic shared memory", site_);
    }
    std::memcpy(&bits, window_.memory + (swizzled - window_.first), sizeof bits);
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }

 private:
  uint32_t address_, leading_, stride_;
  bool across_;
  SharedWindow window_;
  Site site_;
};

struct Product {
  uint64_t a, b;
  uint32_t held[4];                 // a, where the lanes hold it
  bool holds, left_across, across;  // a, b
  int sum;                          // its place
  unsigned group;
  Site site;
};
struct Sum {
  float* at;  // null: has no products under way
  int count, waiting;
  float values[128];  // with the products that are done
};
// Of a CUDA thread; plain memory, as that of copies (tensor_core.h).
struct Products {
  static constexpr int kMostSums = 4, kMost = 32;
  Sum sums[kMostSums];
  int waiting;
  Product list[kMost];
  unsigned groups;  // ended so far
  uint64_t block;   // whose these are
  bool begun;
};
inline Products& products() {
  static Products all[kIdentities][512];
  Products& mine = all[identity()][thread_number() % 512];
  if (mine.block != block_number()) {  // what a kernel that failed has left
    mine.block = block_number();
    for (Sum& sum : mine.sums) sum.at = nullptr, sum.waiting = 0;
    mine.waiting = 0, mine.begun = false;
  }
  return mine;
}

// What this thread has of a product of 64 rows: 16 a warp, fragments as those of mma. `left` is rows g and g + 8 of a.
inline void add(Sum& sum, const Product& product, const float (&left)[2][16]) {
  const Factor b(product.b, product.across, product.site);
  const int first = 2 * (lane() % 4);
  for (int j = 0; 4 * j < sum.count; ++j) {
    for (int c = 0; c < 2; ++c) {
      float upper = sum.values[4 * j + c], lower = sum.values[4 * j + 2 + c];
      for (int k = 0; k < 16; ++k) {
        const float right = b.at(8 * j + first + c, k);
        upper += left[0][k] * right, lower += left[1][k] * right;
      }
      sum.values[4 * j + c] = upper, sum.values[4 * j + 2 + c] = lower;
    }
  }
}
inline void add(Sum& sum, const Product& product) {
  float left[2][16];
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4, g = lane() / 4;
  if (!product.holds) {
    const Factor a(product.a, product.left_across, product.site);
    for (int e = 0; e < 32; ++e) left[e / 16][e % 16] = a.at(16 * warp + g + 8 * (e / 16), e % 16);
  } else {
    const std::byte* all = gather_warp(product.held, sizeof product.held, product.site);
    for (int e = 0; e < 32; ++e) {
      const int row = e / 16, k = e % 16;
      uint32_t pair = 0;
      const size_t at = static_cast<size_t>(g * 4 + k % 8 / 2) * kGatherBytes + sizeof pair * (row + 2 * (k / 8));
      std::memcpy(&pair, all + at, sizeof pair);
      left[row][k] = std::bit_cast<float>((k % 2 == 0 ? pair : pair >> 16) << 16);
    }
  }
  add(sum, product, left);
}

// The place of a sum that has products under way from here on.
inline int place(Products& mine, float* at, int count, const Site& site) {
  int free = -1;
  for (int i = 0; i < Products::kMostSums; ++i) {
    const Sum& sum = mine.sums[i];
    if (sum.at == nullptr) {
      free = i;
    } else if (at < sum.at + sum.count && sum.at < at + count) {
      if (sum.at != at || sum.count != count) fail("has products of sums that overlap under way", site);
      return i;
    }
  }
  if (free < 0) fail("has products of more than 4 sums under way", site);
  Sum& sum = mine.sums[free];
  sum.at = at, sum.count = count;
  std::memcpy(sum.values, at, static_cast<size_t>(count) * sizeof(float));
  std::fill_n(at, count, std::numeric_limits<float>::quiet_NaN());
  return free;
}

inline void ask(float* at, int fragments, Product product, bool add_to_it) {
  Products& mine = products();
  if (product.b >> 62 != 1 || (product.b >> 49 & 7) != 0 ||
      (!product.holds && (product.a >> 62 != 1 || (product.a >> 49 & 7) != 0))) {
    fail("multiplies a matrix of another layout", product.site);
  }
  if (blockDim.x % 128 != 0 || blockDim.x > 512 || blockDim.y * blockDim.z != 1) {
    fail("multiplies in a block that is not of one to four warpgroups", product.site);
  }
  if (!mine.begun) fail("multiplies without begin_products", product.site);
  if (mine.waiting == Products::kMost) fail("has more than 32 products under way", product.site);
  note_product(product.holds ? 0 : product.a, product.b, product.site);
  product.sum = place(mine, at, 4 * fragments, product.site);
  product.group = mine.groups;
  Sum& sum = mine.sums[product.sum];
  if (!add_to_it) {
    if (sum.waiting > 0) fail("begins a sum anew while products of it are under way", product.site);
    std::fill_n(sum.values, sum.count, 0.0f);
  }
  if (options().schedule == Schedule::kForward) add(sum, product);
  ++sum.waiting;
  mine.list[mine.waiting++] = product;
}

}  // namespace warpgroup

inline void publish_copies() { note_published(); }

inline void begin_products() { warpgroup::products().begun = true; }

inline void add_products(float* sums, int fragments, uint64_t a, uint64_t b, bool left_across, bool across, bool add,
                         SIMT_HERE) {
  warpgroup::ask(sums, fragments, {a, b, {}, false, left_across, across, 0, 0, {file, line}}, add);
}
// As with a in shared memory; the lanes hold it as FragmentA.
inline void add_products_of_held(float* sums, int fragments, const uint32_t (&a)[4], uint64_t b, bool across, bool add,
                                 SIMT_HERE) {
  warpgroup::ask(sums, fragments, {0, b, {a[0], a[1], a[2], a[3]}, true, false, across, 0, 0, {file, line}}, add);
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
      continue;
    }
    warpgroup::Sum& sum = mine.sums[product.sum];
    if (options().schedule != Schedule::kForward) warpgroup::add(sum, product);
    if (--sum.waiting > 0) continue;
    std::memcpy(sum.at, sum.values, static_cast<size_t>(sum.count) * sizeof(float));
    sum.at = nullptr;
  }
  mine.waiting = later;
}

}  // namespace simt
