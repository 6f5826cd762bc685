#include "core/arena.h"

#include "support/catch.h"

#include <cmath>
#include <cstdint>

using namespace sffn;

// Kills: unaligned tensors, memory handed out twice, a high-water mark that falls.
TEST_CASE("an arena gives aligned memory in order and takes it back in reverse", "[arena]") {
  Arena arena(cpu_runtime(), "scratch", 1024);
  const Tensor a = arena.allocate({3}, DType::kF32, "a");
  const Tensor b = arena.allocate({1}, DType::kBF16, "b");
  CHECK(reinterpret_cast<uintptr_t>(a.raw()) % 64 == 0);
  CHECK(static_cast<char*>(b.raw()) - static_cast<char*>(a.raw()) == 64);
  CHECK(arena.used() == 128);
  {
    const ArenaScope scope(arena);
    arena.allocate({5, 10}, DType::kF32, "inner");
    CHECK(arena.used() == 128 + 256);
    CHECK(arena.live().size() == 3);
  }
  CHECK(arena.used() == 128);
  CHECK(arena.live().back().what == "b");
  CHECK(arena.high_water() == 384);
  const Tensor again = arena.allocate({1}, DType::kF32, "again");
  CHECK(static_cast<char*>(again.raw()) - static_cast<char*>(a.raw()) == 128);
  arena.reset();
  CHECK(arena.used() == 0);
  CHECK(arena.high_water() == 384);
}

// Kills: releasing to a mark that has already been given back.
TEST_CASE("an arena refuses to be released out of order", "[arena]") {
  Arena arena(cpu_runtime(), "scratch", 1024);
  arena.allocate({16}, DType::kF32, "a");
  const Arena::Mark late = arena.mark();
  arena.reset();
  CHECK_THROWS_AS(arena.release(late), RunError);
}

// Kills: overflow by one block, an error that does not say who holds the memory.
TEST_CASE("an arena that is full says what was asked for and what is live", "[arena]") {
  Arena arena(cpu_runtime(), "saved", 256);
  arena.allocate({16}, DType::kF32, "small");
  arena.allocate({32}, DType::kF32, "large");
  CHECK_NOTHROW(arena.allocate({0}, DType::kF32, "nothing"));
  CHECK_THROWS_WITH(arena.allocate({17}, DType::kF32, "hidden"),
                    "arena saved: hidden [17] of f32 needs 128 bytes, 64 of 256 are free; "
                    "largest live: large 128, small 64, nothing 0");
  CHECK_NOTHROW(arena.allocate({16}, DType::kF32, "the rest"));
  CHECK(arena.used() == arena.capacity());
}

// Kills: poisoning memory in use, or zeros that hide reads of unwritten memory.
TEST_CASE("poison makes free memory NaN and leaves live memory alone", "[arena]") {
  Arena arena(cpu_runtime(), "scratch", 512);
  const Tensor live = arena.allocate({16}, DType::kF32, "live");
  live.data<float>()[0] = 7;
  arena.poison();
  CHECK(live.data<float>()[0] == 7);
  const Tensor fresh = arena.allocate({16}, DType::kF32, "fresh"), low = arena.allocate({8}, DType::kBF16, "low");
  CHECK(std::isnan(fresh.data<float>()[0]));
  CHECK(std::isnan(static_cast<float>(low.data<bfloat16>()[7])));
}

// Kills: touching memory on the meta device, whose arena only measures.
TEST_CASE("a meta arena of a terabyte measures without memory", "[arena]") {
  Arena arena(meta_runtime(), "saved", size_t{1} << 40);
  const Tensor t = arena.allocate({int64_t{1} << 37}, DType::kF32, "huge");
  CHECK(t.device() == Device::meta());
  CHECK(arena.high_water() == size_t{1} << 39);
  CHECK_THROWS_AS(arena.poison(), RunError);
}

// Kills: mapping what is only counted; two buffers at one address; addresses that are never free again.
TEST_CASE("meta memory may exceed the address space of a process", "[arena]") {
  constexpr size_t kBytes = size_t{1} << 54;
  for (int i = 0; i < 3; ++i) {
    const Buffer first(meta_runtime(), kBytes), second(meta_runtime(), 1);
    CHECK(static_cast<char*>(second.data()) - static_cast<char*>(first.data()) >= static_cast<ptrdiff_t>(kBytes));
    CHECK_THROWS_AS(Buffer(meta_runtime(), kBytes), RunError);
  }
}
