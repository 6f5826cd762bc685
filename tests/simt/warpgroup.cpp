// Compiled without instrumentation, as executor.cpp: what threads note here is not theirs.
#include "simt/executor.h"

namespace simt {
namespace {

constexpr unsigned kMaxThreads = 1024;

struct Thread {
  uint64_t block = 0;     // whose these are
  uint64_t products = 0;  // a digest of those that it asked for
  bool unpublished = false;
};
Thread notes[kMaxThreads];
uint64_t noted_block = 0;
unsigned unpublished = 0;  // threads of the block

Thread& note_of(unsigned thread) {
  if (noted_block != block_number()) noted_block = block_number(), unpublished = 0;
  Thread& note = notes[thread];
  if (note.block != block_number()) note = {block_number(), 0, false};
  return note;
}

uintptr_t base() { return reinterpret_cast<uintptr_t>(dynamic_shared_memory()); }
uintptr_t skew() { return base() % 1024; }  // addresses are aligned as pointers are

}  // namespace

uint32_t shared_address(const void* memory, const Site& site) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(memory) - base();
  if (offset >= dynamic_shared_bytes()) fail("describes memory that is not dynamic shared memory", site);
  return static_cast<uint32_t>(offset + skew());
}

SharedWindow shared_window() {
  return {static_cast<const std::byte*>(dynamic_shared_memory()), dynamic_shared_bytes(),
          static_cast<uint32_t>(skew())};
}

void note_copied() {
  Thread& note = note_of(thread_number());
  if (!note.unpublished) ++unpublished;
  note.unpublished = true;
}

void note_published() {
  Thread& note = note_of(thread_number());
  if (note.unpublished) --unpublished;
  note.unpublished = false;
}

void note_product(uint64_t a, uint64_t b, const Site& site) {
  warp_operation(WarpOperation::kBallot, ~0u, 0, 0, site);
  Thread& note = note_of(thread_number());
  if (unpublished > 0) fail("multiplies while copies to shared memory are not published", site);
  for (const uint64_t word : {a, b}) note.products = (note.products ^ word) * 0x9e3779b97f4a7c15 + 1;
}

unsigned first_of_other_products(unsigned threads) {
  if (noted_block != block_number()) return threads;
  for (unsigned t = 0; t < threads; ++t) {
    if (note_of(t).products != note_of(t / 128 * 128).products) return t;
  }
  return threads;
}

}  // namespace simt
