#include "core/stream.h"
#include "kernels/ops.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/host_tensor.h"

#include <string>

using namespace sffn;
using namespace sffn::test;

// Kills: an id that stands for its neighbour, rows of one chunk read for another.
TEST_CASE("a looked-up block is the entry of the token's id", "[ops][lookup_blocks]") {
  constexpr int32_t kVocab = 1000, kTokens = 100'000;  // several chunks
  std::vector<int32_t> table(kVocab), ids(kTokens);
  for (int32_t v = 0; v < kVocab; ++v) table[static_cast<size_t>(v)] = (v * 37 + 5) % 64;
  for (int32_t n = 0; n < kTokens; ++n) ids[static_cast<size_t>(n)] = (n * 7919) % kVocab;
  const HostTensor blocks(DType::kI32, {kTokens});
  Stream stream(cpu_runtime());
  ops::lookup_blocks(stream, blocks, HostTensor::indices(ids), HostTensor::indices(table));
  const std::vector<double> found = blocks.values();
  int64_t wrong = 0;
  for (size_t n = 0; n < ids.size(); ++n) wrong += found[n] != table[static_cast<size_t>(ids[n])];
  CHECK(wrong == 0);
}

namespace {

std::string message(const Tensor& out, const std::vector<int32_t>& ids, const Tensor& from) {
  Stream s(cpu_runtime());
  return error_of([&] { ops::lookup_blocks(s, out, HostTensor::indices(ids), from); }).what;
}

}  // namespace

// Kills: an id read outside the table.
TEST_CASE("lookup_blocks refuses ids outside the table", "[ops][lookup_blocks][cpu]") {
  const HostTensor blocks(DType::kI32, {3}), table = HostTensor::indices({0, 1, 0, 1});
  CHECK(message(blocks, {0, 4, 1}, table) == "lookup_blocks: ids[1] is 4; expected 0 to 3");
  CHECK(message(blocks, {0, 1, -1}, table) == "lookup_blocks: ids[2] is -1; expected 0 to 3");
}

// Kills: tensors that fit nothing let through.
TEST_CASE("lookup_blocks refuses tensors that do not fit", "[ops][lookup_blocks][contract]") {
  const HostTensor blocks(DType::kI32, {3}), table = HostTensor::indices({0, 1, 0, 1});
  CHECK(message(blocks, {0, 1}, table) == "lookup_blocks: ids is i32 [2] on cpu; expected i32 [3] on cpu");
  CHECK(message(HostTensor(DType::kI32, {3, 1}), {0, 1, 2}, table) ==
        "lookup_blocks: blocks is i32 [3, 1] on cpu; expected i32 [N]");
  CHECK(message(blocks, {0, 1, 2}, HostTensor(DType::kF32, {4})) ==
        "lookup_blocks: table is f32 [4] on cpu; expected i32 [V]");
}
