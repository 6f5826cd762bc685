#include "data/batch_source.h"

#include "data/fixture.h"
#include "support/catch.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

using namespace sffn;
using namespace sffn::test;

namespace {

BatchOptions options(int64_t context, int64_t per_step, uint64_t seed = 1) {
  return {context, per_step, 0, seed, false};
}

BatchSource source_of(const TempFolder& folder, const BatchOptions& o) {
  return BatchSource({{folder / "train-*.bin", 1.0}}, o);
}

}  // namespace

// Kills: windows that advance by T + 1, that start at 1, or that cross from one shard into the next.
TEST_CASE("each window of an epoch is drawn exactly once and targets follow inputs", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 31), counting(100, 8), counting(200, 33), counting(300, 1), {}}, 1000);
  const BatchSource source = source_of(folder, options(8, 5));
  std::multiset<int32_t> expected;
  for (int32_t begin = 0; begin + 9 <= 31; begin += 8) expected.insert(begin);
  for (int32_t begin = 200; begin + 9 <= 233; begin += 8) expected.insert(begin);
  REQUIRE(source.windows(0) == static_cast<int64_t>(expected.size()));
  REQUIRE(expected.size() == 7);
  std::vector<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    std::vector<int32_t> starts;
    for (int64_t sample = epoch * 7; sample < (epoch + 1) * 7; ++sample) {
      const Batch batch = source.sequences(sample / 5, sample % 5, 1);
      for (int64_t t = 0; t < 8; ++t) {
        CHECK(batch.inputs[t] == batch.inputs[0] + t);
        CHECK(batch.targets[t] == batch.inputs[0] + t + 1);
        CHECK(batch.positions[t] == t);
      }
      starts.push_back(batch.inputs[0]);
    }
    CHECK(std::multiset<int32_t>(starts.begin(), starts.end()) == expected);
    orders.push_back(starts);
  }
  CHECK(orders[0] != orders[1]);
}

// Kills: a cursor that remembers what was read before, or rows that depend on how a step is split.
TEST_CASE("a step's rows do not depend on the split over ranks, on earlier calls or on the process", "[data]") {
  const TempFolder a, b;
  write_corpus(a.path(), {counting(0, 500)}, 1000);
  write_corpus(b.path(), {counting(500, 300), counting(0, 77)}, 1000);
  const std::vector<CorpusChoice> corpora = {{a / "train-*.bin", 2.0}, {b / "train-*.bin", 1.0}};
  const BatchSource whole(corpora, options(7, 12, 3));
  const BatchSource resumed(corpora, options(7, 12, 3));
  const BatchSource other_seed(corpora, options(7, 12, 4));
  for (int64_t step = 0; step < 5; ++step) whole.sequences(step, 0, 12);
  const Batch all = whole.sequences(9, 0, 12);
  CHECK(all.inputs != other_seed.sequences(9, 0, 12).inputs);
  for (const int64_t rows : {1, 3, 4, 12}) {
    std::vector<int32_t> inputs, targets;
    for (int64_t first = 0; first < 12; first += rows) {
      const Batch part = resumed.sequences(9, first, rows);
      inputs.insert(inputs.end(), part.inputs.begin(), part.inputs.end());
      targets.insert(targets.end(), part.targets.begin(), part.targets.end());
    }
    CHECK(inputs == all.inputs);
    CHECK(targets == all.targets);
  }
  CHECK(whole.sequences(3, 5, 0).inputs.empty());
}

// Kills: another number of sequences a step changing the stream of samples.
TEST_CASE("the sample of index j is the same for every number of sequences a step", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 900)}, 1000);
  const BatchSource by_four = source_of(folder, options(3, 4)), by_six = source_of(folder, options(3, 6));
  for (int64_t j = 0; j < 700; ++j) {
    CHECK(by_four.sequences(j / 4, j % 4, 1).inputs == by_six.sequences(j / 6, j % 6, 1).inputs);
  }
}

// Kills: drawing the corpus at random, rounding the shares per block, skipping or repeating draws at block ends.
TEST_CASE("corpora are mixed in their exact shares and each is read once an epoch", "[data]") {
  const TempFolder a, b, c;
  write_corpus(a.path(), {counting(0, 401)}, 1000);
  write_corpus(b.path(), {counting(0, 101)}, 1000);
  write_corpus(c.path(), {counting(0, 31)}, 1000);
  const std::vector<double> weights = {0.7, 0.29999, 0.00001};
  const BatchSource source({{a / "*.bin", weights[0]}, {b / "*.bin", weights[1]}, {c / "*.bin", weights[2]}},
                           options(10, 8));
  std::map<int64_t, std::map<std::pair<int64_t, int64_t>, int>> seen;
  std::vector<int64_t> drawn(3, 0);
  const int64_t blocks = 60;
  for (int64_t j = 0; j < blocks * 4096; ++j) {
    const SampleOrigin at = source.origin(static_cast<uint64_t>(j));
    CHECK_NOFAIL(at.window < source.windows(at.corpus));
    ++drawn[at.corpus];
    ++seen[at.corpus][{at.epoch, at.window}];
    if ((j + 1) % 4096 != 0) continue;
    for (int64_t k = 0; k < 3; ++k) REQUIRE(std::abs(drawn[k] - weights[k] * static_cast<double>(j + 1)) <= 3.0);
  }
  CHECK(drawn[2] >= 1);
  for (int64_t k = 0; k < 3; ++k) {
    const int64_t whole_epochs = drawn[k] / source.windows(k);
    int64_t whole = 0;
    for (const auto& [key, count] : seen[k]) {
      REQUIRE(count == 1);
      whole += key.first < whole_epochs;
    }
    CHECK(whole == whole_epochs * source.windows(k));
  }
}

// Kills: an index that overflows 32 bits, or a scan from 0.
TEST_CASE("a sample far away is found at once", "[data]") {
  const TempFolder a, b;
  write_corpus(a.path(), {counting(0, 401)}, 1000);
  write_corpus(b.path(), {counting(0, 101)}, 1000);
  const BatchSource source({{a / "*.bin", 3}, {b / "*.bin", 1}}, options(10, 8));
  int64_t first = 0;
  for (uint64_t j = uint64_t{1} << 50; j < (uint64_t{1} << 50) + 4096; ++j) first += source.origin(j).corpus == 0;
  CHECK(first == 3072);
  CHECK(source.origin((uint64_t{1} << 50)).epoch > int64_t{1} << 40);
}

// Kills: a document that begins at its predecessor's end-of-document id, or positions that run on.
TEST_CASE("under a document mask positions and the visible segment restart after each end of document", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {{9, 1, 2, 9, 9, 3, 4, 5, 9, 6, 7}}, 10);
  BatchOptions o = options(10, 1);
  o.document_mask = true;
  const Batch batch = source_of(folder, o).sequences(0, 0, 1);
  CHECK(batch.inputs == std::vector<int32_t>{9, 1, 2, 9, 9, 3, 4, 5, 9, 6});
  CHECK(batch.segment_start == std::vector<int32_t>{0, 1, 1, 1, 4, 5, 5, 5, 5, 9});
  CHECK(batch.positions == std::vector<int32_t>{0, 0, 1, 2, 0, 0, 1, 2, 3, 0});
  CHECK(batch.targets == std::vector<int32_t>{1, 2, 9, 9, 3, 4, 5, 9, 6, 7});
  o.document_mask = false;
  CHECK(source_of(folder, o).sequences(0, 0, 1).segment_start.empty());
}

// Kills: a second row that writes the first row's mask.
TEST_CASE("each row of a masked batch has its own documents", "[data]") {
  Batch batch = make_batch(2, 3);
  batch.inputs = {1, 9, 2, 3, 4, 9};
  mask_documents(batch, 0, 9);
  mask_documents(batch, 1, 9);
  CHECK(batch.segment_start == std::vector<int32_t>{0, 0, 2, 0, 0, 0});
  CHECK(batch.positions == std::vector<int32_t>{0, 1, 0, 0, 1, 2});
}

// Kills: reading past a shard that is too short, or a message without the lengths.
TEST_CASE("a context longer than every shard is a usage error that names the longest", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 5), counting(0, 33)}, 1000);
  CHECK(source_of(folder, options(32, 1)).windows(0) == 1);
  const Caught error = caught([&] { source_of(folder, options(33, 1)); });
  CHECK(error.code == 2);
  CHECK(error.has("train-000001.bin"));
  CHECK(error.has("33 tokens"));
  CHECK(error.has("needs 34"));
}

// Kills: weights that are not checked, or corpora of two tokenizers read as one.
TEST_CASE("bad weights and corpora of different tokenizers are usage errors", "[data]") {
  const TempFolder a, b;
  write_corpus(a.path(), {counting(0, 40)}, 1000);
  write_corpus(b.path(), {counting(0, 40)}, 999);
  for (const double weight : {0.0, -1.0, double{NAN}, double{INFINITY}}) {
    CHECK(caught([&] { BatchSource({{a / "*.bin", weight}}, options(4, 1)); }).code == 2);
  }
  CHECK(caught([&] { BatchSource({{a / "*.bin", 1}, {b / "*.bin", 1}}, options(4, 1)); }).code == 2);
  CHECK(caught([&] { BatchSource({}, options(4, 1)); }).code == 2);
  remove_tree(b / kManifestName);
  BatchOptions masked = options(4, 1);
  masked.document_mask = true;
  masked.vocab_size = 1000;
  CHECK(caught([&] { BatchSource({{b / "*.bin", 1}}, masked); }).has("end-of-document"));
}

// Kills: a fingerprint of paths or of sizes alone.
TEST_CASE("the fingerprint follows the content and not the folder", "[data]") {
  const TempFolder a, b, c;
  write_corpus(a.path(), {counting(0, 40)}, 1000);
  write_corpus(b.path(), {counting(0, 40)}, 1000);
  write_corpus(c.path(), {counting(1, 40)}, 1000);
  const Hash128 of_a = source_of(a, options(4, 1)).fingerprint();
  CHECK(of_a == source_of(b, options(4, 1)).fingerprint());
  CHECK(of_a != source_of(c, options(4, 1)).fingerprint());
  for (const TempFolder* folder : {&a, &c}) remove_tree(*folder / kManifestName);
  BatchOptions o = options(4, 1);
  o.vocab_size = 1000;
  CHECK(source_of(a, o).fingerprint() != source_of(c, o).fingerprint());
}
