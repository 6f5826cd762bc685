// Compiled without instrumentation, as executor.cpp: fragments are registers of a thread, which others cannot race for.
#include "simt/tensor_core.h"

namespace simt {
namespace {

float widened(uint32_t pair, int half) { return std::bit_cast<float>((half == 0 ? pair : pair >> 16) << 16); }

struct Factors {
  uint32_t a[4], b[2];
};

uint32_t word_of(const std::byte* all, int lane, int word) {
  uint32_t pair = 0;
  std::memcpy(&pair, all + static_cast<size_t>(lane) * kGatherBytes + sizeof pair * word, sizeof pair);
  return pair;
}

}  // namespace

void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file, int line) {
  Factors mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const std::byte* all = gather_warp(&mine, sizeof mine, {file, line});
  const int g = lane() / 4, t = lane() % 4;
  for (int e = 0; e < 4; ++e) {
    const int row = g + 8 * (e / 2), column = 2 * t + e % 2;
    for (int k = 0; k < 16; ++k) {
      const uint32_t left = word_of(all, row % 8 * 4 + k % 8 / 2, row / 8 + 2 * (k / 8));
      const uint32_t right = word_of(all, column * 4 + k % 8 / 2, 4 + k / 8);
      c[e] += widened(left, k % 2) * widened(right, k % 2);
    }
  }
}

}  // namespace simt
