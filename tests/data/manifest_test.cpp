#include "data/manifest.h"

#include "core/random.h"
#include "data/fixture.h"
#include "support/catch.h"

using namespace sffn;
using namespace sffn::test;

namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

// Kills: a key that is written and not read, or read from another place.
TEST_CASE("a manifest parses back to itself", "[data]") {
  const TempFolder folder;
  Manifest manifest = write_corpus(folder.path(), {counting(0, 31), {}}, 100);
  manifest.tokenizer_file = "tokenizer.model";
  manifest.duplicates = 3, manifest.empty = 4, manifest.invalid_utf8_bytes = 5, manifest.val_fraction = 0.005;
  manifest.inputs_hash = hash128("a"), manifest.documents_hash = hash128("b");
  manifest.train.shards[0].documents = manifest.train.documents = 6;
  manifest.train.shards[1].bytes = manifest.train.bytes = 7;
  manifest.validation = manifest.train;
  CHECK(parse_manifest(to_json(manifest).dump(2), "m") == manifest);
}

// Kills: each single check of the parser.
TEST_CASE("a hostile manifest is damaged data and names the key", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 10)}, 100);
  const std::string good = to_json(*find_manifest(folder.path())).dump();
  struct Case {
    std::string from, to, part;
  };
  const std::vector<Case> cases = {
      {"\"train-000000.bin\"", "\"../train-000000.bin\"", "train.shards[0].file"},
      {"\"train-000000.bin\"", "\"..\"", "train.shards[0].file"},
      {"\"train-000000.bin\"", "\"/etc/passwd\"", "train.shards[0].file"},
      {"\"train-000000.bin\"", "\"a\\u0000b\"", "train.shards[0].file"},
      {"\"train-000000.bin\"", "7", "a string was expected"},
      {"\"tokens\":10", "\"tokens\":11", "train.tokens is not the sum"},
      {"\"tokens\":10", "\"tokens\":9223372036854775807", "train.tokens"},
      {"\"tokens\":10", "\"tokens\":-10", "train.tokens"},
      {"\"tokens\":10", "\"tokens\":10.0", "an integer was expected"},
      {"\"tokenizer.model\"", "\"../x\"", "tokenizer.file"},
      {"\"vocab_size\":100", "\"vocab_size\":0", "vocab_size"},
      {"\"vocab_size\":100", "\"vocab_size\":4611686018427387904", "vocab_size"},
      {"\"token_counts\":[1,", "\"token_counts\":[2,", "train.token_counts add up to 11; tokens is 10"},
      {"\"token_counts\":[1,", "\"token_counts\":[1,0,", "train.token_counts has 101 entries; the vocabulary has 100"},
      {"\"token_counts\":[1,", "\"token_counts\":[-1,", "train.token_counts [0] is -1; a count was expected"},
      {"\"token_counts\":[1,", "\"token_counts\":[1.0,", "train.token_counts [0] is 1.0"},
      {"\"token_counts\":[1,", "\"token_counts\":[9223372036854775807,", "a count was expected"},
      {"\"end_of_document\":99", "\"end_of_document\":100", "end_of_document"},
      {"\"version\":1", "\"version\":2", "version"},
      {"\"sffn-tokens\"", "\"other\"", "format"},
      {"\"empty\":0,", "", "empty is missing"},
      {"\"empty\":0,", "\"empty\":0,\"more\":1,", "more is not a known key"},
      {"\"block_checksums\":[", "\"block_checksums\":[\"00000000000000000000000000000000\",", "block_checksums has 2"},
      {"\"checksum\":\"", "\"checksum\":\"0", "train.shards[0].checksum"},
      {"{", "", "line 1"},
  };
  for (const Case& c : cases) {
    const Caught error = caught([&] { parse_manifest(replaced(good, c.from, c.to), "m.json"); });
    INFO(c.from << " -> " << c.to << ": " << error.text);
    CHECK(error.code == 3);
    CHECK(error.has("m.json"));
    CHECK(error.has(c.part));
  }
}

// Kills: a read or an allocation before its check, for any single damaged byte.
TEST_CASE("a manifest with one byte changed is refused or still adds up", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 10)}, 100);
  const std::string good = to_json(*find_manifest(folder.path())).dump();
  const RandomKey key = random_key(7, RandomSite::kRandomTokens, 0, 0);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(random_bits(key, i));
    const Caught error = caught([&] {
      const Manifest manifest = parse_manifest(bad, "m.json");
      CHECK(manifest.train.tokens == manifest.train.shards.at(0).tokens);
      CHECK(is_plain_file_name(manifest.train.shards.at(0).file));
    });
    CHECK((error.code == 0 || error.code == 3));
  }
}
