#include "core/tensor.h"

#include "core/buffer.h"
#include "support/catch.h"
#include "support/error_of.h"

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace sffn;
using sffn::test::error_of;

namespace {

uint16_t bits_of(float value) { return bfloat16(value).bits; }
float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace

// Kills: truncation, ties away from zero, rounding that turns NaN into infinity.
TEST_CASE("bfloat16 rounds to nearest, ties to even, and keeps NaN and infinity", "[dtype]") {
  CHECK(bits_of(1.0f) == 0x3f80);
  CHECK(bits_of(from_bits(0x3f808000)) == 0x3f80);  // halfway, even below
  CHECK(bits_of(from_bits(0x3f818000)) == 0x3f82);  // halfway, even above
  CHECK(bits_of(from_bits(0x3f808001)) == 0x3f81);
  CHECK(bits_of(from_bits(0x3f80ffff)) == 0x3f81);
  CHECK(bits_of(from_bits(0xbf818000)) == 0xbf82);
  CHECK(bits_of(-0.0f) == 0x8000);
  CHECK(bits_of(std::numeric_limits<float>::infinity()) == 0x7f80);
  CHECK(bits_of(std::numeric_limits<float>::max()) == 0x7f80);  // beyond the largest bfloat16
  for (uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0x7fc00000u}) {
    CHECK(std::isnan(static_cast<float>(bfloat16(from_bits(nan)))));
  }
  for (uint32_t high = 0; high < 0x10000; ++high) {
    const float value = from_bits(high << 16);
    if (!std::isnan(value)) REQUIRE(bits_of(value) == high);
  }
}

// Kills: a scalar of no elements, a negative index off by one, five dimensions stored past the array.
TEST_CASE("shapes count, index from either end and refuse what they cannot hold", "[tensor]") {
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{2, 0, 3}.numel() == 0);
  const Shape shape{2, 3, 4, 5};
  CHECK(shape.numel() == 120);
  CHECK(shape[-1] == 5);
  CHECK(shape[0] == 2);
  CHECK(shape.str() == "[2, 3, 4, 5]");
  CHECK_THROWS_AS(shape[4], RunError);
  CHECK_THROWS_AS(shape[-5], RunError);
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1}), RunError);
  CHECK_THROWS_AS((Shape{2, -1}), RunError);
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2} != Shape{2, 1});
}

// Kills: reading bf16 bytes as f32, reading an absent tensor.
TEST_CASE("a tensor is read as its own dtype only", "[tensor]") {
  std::vector<float> memory(6);
  const Tensor t(memory.data(), {2, 3}, DType::kF32, Device::cpu()), absent;
  CHECK(t.data<float>() == memory.data());
  CHECK(error_of([&] { t.data<bfloat16>(); }).says("a tensor of f32 was read as bf16"));
  CHECK(error_of([&] { absent.data<float>(); }).says("absent"));
  CHECK(absent.data_or_null<float>() == nullptr);
  CHECK(absent.numel() == 0);
  CHECK(absent.bytes() == 0);
  CHECK(t.bytes() == 24);
  CHECK(t.rows() == 2);
  CHECK(t.cols() == 3);
}

// Kills: offsets in elements where bytes are meant, a slice past the end.
TEST_CASE("views and slices share bytes and stay inside", "[tensor]") {
  std::vector<float> memory(24);
  const Tensor t(memory.data(), {4, 3, 2}, DType::kF32, Device::cpu());
  CHECK(t.view({6, 4}).data<float>() == memory.data());
  CHECK_THROWS_AS(t.view({5, 5}), RunError);
  const Tensor part = t.slice(1, 2);
  CHECK(part.shape() == Shape{2, 3, 2});
  CHECK(part.data<float>() == memory.data() + 6);
  CHECK(t.slice(4, 0).numel() == 0);
  CHECK_THROWS_AS(t.slice(3, 2), RunError);
  CHECK_THROWS_AS(t.slice(-1, 2), RunError);
  CHECK_THROWS_AS(Tensor().slice(0, 0), RunError);
}

// Kills: memory that is not zero when new, a tensor larger than its buffer, freeing twice after a move.
TEST_CASE("a buffer is zero when new, movable, and refuses tensors larger than itself", "[tensor]") {
  Buffer buffer(cpu_runtime(), {127}, DType::kF32);
  const Tensor t = buffer.tensor({127}, DType::kF32);
  for (int i = 0; i < 127; ++i) REQUIRE(t.data<float>()[i] == 0);
  CHECK(reinterpret_cast<uintptr_t>(t.raw()) % 64 == 0);
  CHECK_THROWS_AS(buffer.tensor({128}, DType::kF32), RunError);
  Buffer moved = std::move(buffer);
  CHECK(moved.data() == t.raw());
  CHECK_THROWS_AS(buffer.tensor({1}, DType::kF32), RunError);  // NOLINT: the empty state is what is tested
  CHECK_THROWS_AS(Buffer().tensor({0}, DType::kF32), RunError);
}
