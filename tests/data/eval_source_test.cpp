#include "data/eval_source.h"

#include "data/fixture.h"
#include "data/tokenizer.h"
#include "support/catch.h"

#include <map>

using namespace sffn;
using namespace sffn::test;

namespace {

// How often each target was scored, and with how many inputs before and including its own.
struct Scored {
  std::map<int32_t, int> times;
  std::map<int32_t, int64_t> visible;
};

Scored score_all(const EvalSource& source, int64_t rows) {
  Scored scored;
  for (const EvalBatch& at : source.batches(rows)) {
    CHECK_NOFAIL((at.count >= 1 && at.count <= rows));
    const Batch batch = source.batch(at);
    const int64_t T = batch.time;
    for (int64_t i = 0; i < at.count * T; ++i) {
      if (batch.targets[i] < 0) continue;
      CHECK_NOFAIL(batch.targets[i] == batch.inputs[i] + 1);
      ++scored.times[batch.targets[i]];
      scored.visible[batch.targets[i]] = i % T + 1;
    }
  }
  return scored;
}

}  // namespace

// Kills: a first token that is scored, a tail that is dropped, an overlap that is scored twice.
TEST_CASE("every token but the first of a shard is scored exactly once for all strides and lengths", "[data]") {
  for (const uint32_t length : {2u, 7u, 8u, 9u, 10u, 31u, 33u, 127u}) {
    const TempFolder folder;
    write_corpus(folder.path(), {counting(0, length), counting(1000, 1), counting(2000, 20), {}}, 5000);
    for (int64_t stride = 0; stride <= 8; ++stride) {
      const EvalSource source(folder / "*.bin", {8, stride, 0, 0, false});
      const Scored scored = score_all(source, 3);
      REQUIRE(source.tokens() == length - 1 + 19);
      REQUIRE(static_cast<int64_t>(scored.times.size()) == source.tokens());
      for (const auto& [token, times] : scored.times) REQUIRE(times == 1);
      CHECK(scored.times.count(0) == 0);
      CHECK(scored.times.count(2000) == 0);
      for (const auto& [token, visible] :
           scored.visible) {  // with a stride, at least context - stride tokens before it
        const int64_t before = std::min<int64_t>(token % 1000, stride == 0 ? 1 : 8 - stride + 1);
        REQUIRE(visible >= before);
      }
    }
  }
}

// Kills: a window that is not what the definition says.
TEST_CASE("a window scores its last stride targets and the first window all", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 14)}, 5000);
  const EvalSource source(folder / "*.bin", {6, 4, 0, 0, false});
  REQUIRE(source.windows() == 3);
  CHECK(source.window(0) == EvalWindow{0, 0, 6, 6});
  CHECK(source.window(1) == EvalWindow{0, 4, 6, 4});
  CHECK(source.window(2) == EvalWindow{0, 8, 5, 3});
  const Batch last = source.batch({2, 1});
  CHECK(last.inputs == std::vector<int32_t>{8, 9, 10, 11, 12});
  CHECK(last.targets == std::vector<int32_t>{-1, -1, 11, 12, 13});
  const Batch wide = source.batch({2, 1}, 2);
  CHECK(wide.inputs == std::vector<int32_t>{8, 9, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0});
  CHECK(wide.targets == std::vector<int32_t>{-1, -1, 11, 12, 13, -1, -1, -1, -1, -1, -1, -1});
}

// Kills: a batch with windows of two lengths, which one of them would have to be filled up for; a window left out.
TEST_CASE("a batch has windows of one length and no other tokens", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 21), counting(100, 4), counting(200, 4), counting(300, 13)}, 5000);
  const EvalSource source(folder / "*.bin", {6, 0, 0, 0, false});
  CHECK(source.batches(2) == std::vector<EvalBatch>{{0, 2}, {2, 1}, {3, 1}, {4, 2}, {6, 2}});
  CHECK(source.batches(100) == std::vector<EvalBatch>{{0, 3}, {3, 1}, {4, 2}, {6, 2}});
  int64_t inputs = 0;
  for (const EvalBatch& at : source.batches(100)) inputs += std::ssize(source.batch(at).inputs);
  CHECK(inputs == source.tokens());
}

// Kills: a limit that counts windows, or is passed on to later shards.
TEST_CASE("a limit scores exactly the first tokens", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 10), counting(100, 50)}, 5000);
  for (const int64_t limit : {1, 8, 9, 10, 25, 58, 1000}) {
    const EvalSource source(folder / "*.bin", {8, 5, limit, 0, false});
    const Scored scored = score_all(source, 1);
    CHECK(source.tokens() == std::min<int64_t>(limit, 58));
    CHECK(static_cast<int64_t>(scored.times.size()) == source.tokens());
    CHECK(scored.times.begin()->first == 1);
  }
}

// Kills: end of document counted as a byte, or bytes made up where no manifest tells them.
TEST_CASE("scored bytes are those of the text", "[data]") {
  const TempFolder folder;
  write_text(folder / "train-0.bin", shard_bytes({65, 66, 256, 67, 256, 68}));
  CHECK(!EvalSource(folder / "*.bin", {4, 0, 0, 257, false}).scored_bytes(make_batch(1, 4)));
  remove_tree(folder / "train-0.bin");
  write_corpus(folder.path(), {{65, 66, 256, 67, 256, 68}}, 257);
  const EvalSource source(folder / "*.bin", {4, 0, 0, 0, false});
  CHECK(source.scored_bytes(source.batch({0, 2}, 2)) == 3);
  CHECK(source.scored_bytes(source.batch({0, 1})) == 2);
  CHECK(source.tokens() == 5);
}

// Kills: strides that skip tokens, sets without a target, masks without an id to mask by.
TEST_CASE("options that leave tokens unscored are usage errors", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {{1}, {2}}, 257);
  CHECK(caught([&] { EvalSource(folder / "*.bin", {8, 9, 0, 0, false}); }).code == 2);
  CHECK(caught([&] { EvalSource(folder / "*.bin", {8, 8, 0, 0, false}); }).has("no token to score"));
  remove_tree(folder / kManifestName);
  CHECK(caught([&] { EvalSource(folder / "*.bin", {8, 8, 0, 257, true}); }).has("document_mask"));
}

// Kills: positions that run on over documents in evaluation but not in training.
TEST_CASE("evaluation windows can be masked by document", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {{1, 256, 3, 4, 5}}, 257);
  const Batch batch = EvalSource(folder / "*.bin", {4, 0, 0, 0, true}).batch({0, 1});
  CHECK(batch.segment_start == std::vector<int32_t>{0, 0, 2, 2});
  CHECK(batch.positions == std::vector<int32_t>{0, 1, 0, 1});
}
