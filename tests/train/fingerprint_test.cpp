#include "train/fingerprint.h"

#include "comm/threads.h"
#include "core/buffer.h"
#include "core/stream.h"
#include "support/catch.h"
#include "support/error_of.h"

#include <mutex>
#include <vector>

using namespace sffn;
using sffn::test::error_of;

namespace {

constexpr int64_t kBlocks = 4, kBlockElements = 6, kElements = kBlocks * kBlockElements;
constexpr const char* kTable = "layers.2.ffn.keys.weight";

std::vector<float> values() {
  std::vector<float> x;
  for (int64_t i = 0; i < kElements; ++i) x.push_back(static_cast<float>(i % 5) - 1);  // some alike, some zero
  return x;
}

// Elements [first, last) of x.
void add(FingerprintSums& sums, std::vector<float>& x, int64_t first, int64_t last, const char* name = kTable) {
  Stream stream(cpu_runtime());
  sums.add(stream, name, Tensor(x.data() + first, {last - first}, DType::kF32, Device::cpu()), first, kBlockElements);
}

FingerprintSums expecting() {
  FingerprintSums sums;
  sums.expect("layers.2.ffn", kBlocks);
  return sums;
}

Fingerprints whole(std::vector<float> x, const char* name = kTable) {
  FingerprintSums sums = expecting();
  add(sums, x, 0, kElements, name);
  return sums.total(*make_self_communicator());
}

}  // namespace

// Kills: numbers that depend on where a part is cut or who holds it, a rank's share of the sums that stays its own.
TEST_CASE("fingerprints are the same however ranks share the elements", "[fingerprint]") {
  const Fingerprints expected = whole(values());
  for (const int ranks : {1, 2, 3, 8}) {
    std::mutex guard;
    std::vector<Fingerprints> found;
    run_threads(ranks, [&](Communicator& comm) {
      std::vector<float> x = values();
      FingerprintSums sums = expecting();
      const int64_t first = kElements * comm.rank() / ranks, last = kElements * (comm.rank() + 1) / ranks;
      const int64_t middle = (first + last) / 2;
      add(sums, x, middle, last);
      add(sums, x, first, middle);
      const Fingerprints total = sums.total(comm);
      const std::lock_guard<std::mutex> lock(guard);
      found.push_back(total);
    });
    for (const Fingerprints& one : found) CHECK(one == expected);
  }
}

// Kills: a sum of values, which a swap leaves as it is; zeros that count for nothing; names that are not mixed in.
TEST_CASE("a block that is missing, there twice, or in another's place is named", "[fingerprint]") {
  const Fingerprints expected = whole(values());
  CHECK(first_difference(whole(values()), expected).empty());
  const auto changed = [&](auto&& change) {
    std::vector<float> x = values();
    change(x);
    return first_difference(whole(x), expected);
  };
  CHECK(changed([](std::vector<float>& x) { x[15] += 1e-6f; }) == "block 2 of layers.2.ffn");
  CHECK(changed([](std::vector<float>& x) { std::swap(x[6], x[7]); }) == "block 1 of layers.2.ffn");
  CHECK(changed([](std::vector<float>& x) { std::copy_n(x.begin() + 18, 6, x.begin()); }) == "block 0 of layers.2.ffn");
  CHECK(changed([](std::vector<float>& x) { std::swap_ranges(x.begin(), x.begin() + 6, x.begin() + 18); }) ==
        "block 0 of layers.2.ffn");
  CHECK(first_difference(whole(values(), "layers.2.ffn.values.weight"), expected) == "block 0 of layers.2.ffn");

  std::vector<float> zeros(kElements, 0.0f);
  FingerprintSums part = expecting(), twice = expecting();
  add(part, zeros, 0, kElements - 1);
  add(twice, zeros, 0, kElements);
  add(twice, zeros, 12, 18);
  const auto alone = make_self_communicator();
  CHECK(first_difference(part.total(*alone), whole(zeros)) == "block 3 of layers.2.ffn");
  CHECK(first_difference(twice.total(*alone), whole(zeros)) == "block 2 of layers.2.ffn");
  CHECK(first_difference({{"", {0}}}, expected) == "the blocks of layers.2.ffn");
}

// Kills: digits lost on the way to a file and back, text that is no fingerprint taken for zero.
TEST_CASE("fingerprints go to a file and come back, and what is none is refused", "[fingerprint]") {
  const Fingerprints some{{"", {0}}, {"layers.1.ffn", {1, 0xfedcba9876543210u, UINT64_MAX}}};
  CHECK(fingerprints_from(parse_json(to_json(some).dump(), "t", ExitCode::kDamaged), "t") == some);
  for (const char* text : {"3", R"({"": 5})", R"({"": [7]})", R"({"": ["123"]})", R"({"": ["00000000000000zz"]})"}) {
    const Json json = parse_json(text, "t", ExitCode::kDamaged);
    CHECK(error_of([&] { fingerprints_from(json, "a/trainer.json"); }).what ==
          "a/trainer.json: \"fingerprints\" is not lists of 16 hexadecimal digits");
  }
}

// Kills: a moment that counts for another layer than its parameter.
TEST_CASE("a table and its moments belong to their layer", "[fingerprint]") {
  CHECK(layer_of("layers.12.ffn.keys.weight") == "layers.12.ffn");
  CHECK(layer_of("adam.m:layers.0.ffn.values.weight") == "layers.0.ffn");
}
