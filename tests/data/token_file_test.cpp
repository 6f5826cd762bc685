#include "data/token_file.h"

#include "data/corpus.h"
#include "data/fixture.h"
#include "support/catch.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

using namespace sffn;
using namespace sffn::test;

namespace {

std::string with_int32(std::string bytes, size_t offset, int32_t value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

}  // namespace

// Kills: a wrong magic, version, width or place of the count in what is written.
TEST_CASE("a shard header has llm.c's bytes", "[data]") {
  const auto narrow = encode_shard_header({258, 2}), wide = encode_shard_header({258, 4});
  REQUIRE(narrow.size() == 1024);
  const std::vector<unsigned char> begin16 = {0x88, 0xd8, 0x34, 0x01, 1, 0, 0, 0, 2, 1, 0, 0, 0};
  const std::vector<unsigned char> begin32 = {0xa1, 0xd9, 0x34, 0x01, 7, 0, 0, 0, 2, 1, 0, 0, 0};
  CHECK(std::equal(begin16.begin(), begin16.end(), narrow.begin()));
  CHECK(std::equal(begin32.begin(), begin32.end(), wide.begin()));
}

// Kills: reading from the wrong offset, sign extension of uint16, a width taken from the vocabulary.
TEST_CASE("ids read back from both widths, with and without a manifest", "[data]") {
  const TempFolder folder;
  const std::vector<uint32_t> ids = {0, 1, 255, 256, 32768, 65535};
  for (const int64_t width : {2, 4}) {
    write_text(folder / "x.bin", shard_bytes(ids, width));
    const TokenFile shard(folder / "x.bin", nullptr, 65536);
    REQUIRE(shard.tokens() == 6);
    std::vector<int32_t> out(5);
    shard.read(out.data(), 1, 5);
    CHECK(out == std::vector<int32_t>{1, 255, 256, 32768, 65535});
    shard.read(out.data(), 6, 0);
    CHECK(caught([&] { shard.read(out.data(), 2, 5); }).code == 1);
  }
}

// Kills: each of the checks of the header left out.
TEST_CASE("a shard with a damaged header is refused with its name and offset", "[data]") {
  const TempFolder folder;
  const std::string good = shard_bytes(counting(0, 20));
  struct Case {
    std::string bytes, part;
  };
  const std::vector<Case> cases = {
      {"", "0 bytes"},
      {good.substr(0, 1023), "1023 bytes"},
      {good.substr(0, good.size() - 1), "1063 bytes"},
      {good + 'x', "1065 bytes"},
      {with_int32(good, 0, 20240522), "magic 20240522"},
      {with_int32(good, 4, 2), "version 2"},
      {with_int32(good, 8, -1), "count of -1"},
      {with_int32(good, 8, 19), "counts 19 tokens"},
      {with_int32(good, 8, INT32_MAX), "counts 2147483647 tokens"},
      {with_int32(with_int32(good, 0, 20240801), 4, 7), "counts 20 tokens"},
  };
  for (const Case& c : cases) {
    write_text(folder / "x.bin", c.bytes);
    const Caught error = caught([&] { TokenFile(folder / "x.bin", nullptr, 1000); });
    INFO(c.part << " in " << error.text);
    CHECK(error.code == 3);
    CHECK(error.has("x.bin"));
    CHECK(error.has(c.part));
  }
  CHECK(caught([&] { TokenFile(folder.path(), nullptr, 10); }).code == 3);
  CHECK(caught([&] { TokenFile(folder / "none.bin", nullptr, 10); }).code == 3);
}

// Kills: serving an id at or above the vocabulary, or an id of 2^32 - 1 as -1.
TEST_CASE("an id that is not below the vocabulary is damage at its offset", "[data]") {
  const TempFolder folder;
  write_text(folder / "x.bin", shard_bytes({1, 2, 10, 3}));
  int32_t ids[4];
  const TokenFile exact(folder / "x.bin", nullptr, 11), short_by_one(folder / "x.bin", nullptr, 10);
  exact.read(ids, 0, 4);
  short_by_one.read(ids, 0, 2);
  const Caught error = caught([&] { short_by_one.read(ids, 1, 3); });
  CHECK(error.code == 3);
  CHECK(error.has("offset 1028"));
  CHECK(error.has("id 10"));
  write_text(folder / "y.bin", shard_bytes({1, 0xffffffffu}, 4));
  CHECK(caught([&] { TokenFile(folder / "y.bin", nullptr, 100000).read(ids, 0, 2); }).has("id 4294967295"));
}

// Kills: verifying nothing, the wrong block, or only the first read's block.
TEST_CASE("a flipped bit is found when its block of 8 MiB is first read and not before", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {std::vector<uint32_t>(9'000'000, 7)}, 1000);
  flip_bit(folder / "train-000000.bin", kChecksumBlock + 5000);
  const Corpus corpus(folder / "train-*.bin");
  const TokenFile& shard = corpus.shards().front();
  int32_t ids[10];
  shard.read(ids, 100, 10);
  shard.read(ids, 8'999'000, 10);
  const Caught error = caught([&] { shard.read(ids, (8 << 20) / 2 - 512 - 5, 10); });
  CHECK(error.code == 3);
  CHECK(error.has("offset 8388608"));
  CHECK(error.has("train-000000.bin"));
  CHECK(find_faults(folder / "train-*.bin").size() == 1);
}

// Kills: an empty match that trains on nothing, a shard missing from the middle, and one that nobody listed.
TEST_CASE("missing, unlisted and empty shards have their own errors", "[data]") {
  const TempFolder folder;
  CHECK(caught([&] { Corpus(folder / "train-*.bin"); }).code == 3);
  write_corpus(folder.path(), {counting(0, 10), counting(0, 10), counting(0, 10)}, 100);
  CHECK(Corpus(folder / "train-*.bin").tokens() == 30);
  CHECK(Corpus(folder / "train-00000[02].bin").tokens() == 20);
  remove_tree(folder / "train-000001.bin");
  const Caught missing = caught([&] { Corpus(folder / "train-*.bin"); });
  CHECK(missing.code == 3);
  CHECK(missing.has("train-000001.bin: is missing"));
  CHECK(find_faults(folder / "train-*.bin").size() == 1);
  CHECK(Corpus(folder / "train-00000[02].bin").tokens() == 20);
  write_text(folder / "other.bin", shard_bytes({1, 2}));
  CHECK(caught([&] { Corpus(folder / "other.bin"); }).code == 3);
  const TempFolder empty;
  write_corpus(empty.path(), {{}, {}}, 100);
  const Caught none = caught([&] { Corpus(empty / "train-*.bin"); });
  CHECK(none.code == 2);
  CHECK(none.has("empty corpus"));
}

// Kills: a vocabulary of the model that is smaller than the data's, or none at all.
TEST_CASE("the vocabulary of the manifest is held against the model's", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 10)}, 100);
  CHECK(Corpus(folder / "*.bin").vocab_size() == 100);
  CHECK(Corpus(folder / "*.bin", 128).vocab_size() == 100);
  CHECK(vocab_size_from_data({folder / "*.bin"}) == 100);
  const Caught error = caught([&] { Corpus(folder / "*.bin", 99); });
  CHECK(error.code == 2);
  CHECK(error.has("vocabulary of 100"));
  remove_tree(folder / kManifestName);
  CHECK(Corpus(folder / "*.bin", 99).vocab_size() == 99);
  CHECK(caught([&] { Corpus(folder / "*.bin"); }).code == 2);
  CHECK(caught([&] { vocab_size_from_data({folder / "*.bin"}); }).code == 2);
}

// Kills: a manifest whose count or checksums are not compared with the shard.
TEST_CASE("a shard that does not fit its manifest is damaged", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 10)}, 100);
  write_text(folder / "train-000000.bin", shard_bytes(counting(0, 9)));
  CHECK(caught([&] { Corpus(folder / "*.bin"); }).code == 3);
  write_text(folder / "train-000000.bin", shard_bytes(counting(1, 10)));
  int32_t ids[2];
  CHECK(caught([&] { Corpus(folder / "*.bin").shards()[0].read(ids, 0, 2); }).code == 3);
}

// Kills: a crash without a word when a file shrinks under its mapping.
TEST_CASE("a file that shrinks while it is mapped ends the process with code 3 and its name", "[data]") {
  const TempFolder folder;
  write_text(folder / "x.bin", shard_bytes(std::vector<uint32_t>(100000, 3)));
  const int out = dup(STDERR_FILENO);
  const pid_t child = fork();
  if (child == 0) {
    FILE* log = freopen((folder / "log").c_str(), "w", stderr);
    const TokenFile shard(folder / "x.bin", nullptr, 10);
    if (log == nullptr || truncate((folder / "x.bin").c_str(), 4096) != 0) _exit(77);
    int32_t ids[10];
    shard.read(ids, 90000, 10);
    _exit(78);
  }
  close(out);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 3);
  const std::string log = read_text(folder / "log");
  CHECK(log.find("x.bin: cannot be read at offset 18") != std::string::npos);
}

// Kills: stopping at the first fault.
TEST_CASE("verification lists every fault of a set of shards", "[data]") {
  const TempFolder folder;
  write_corpus(folder.path(), {counting(0, 10), counting(0, 10), counting(0, 10), counting(0, 10)}, 100);
  CHECK(find_faults(folder / "train-*.bin").empty());
  flip_bit(folder / "train-000000.bin", 1024);
  remove_tree(folder / "train-000001.bin");
  write_text(folder / "train-000002.bin", "short");
  std::string bytes = read_text(folder / "train-000003.bin");
  bytes[1025] = 1;
  write_text(folder / "train-000003.bin", bytes);
  const auto faults = find_faults(folder / "train-*.bin");
  std::string all;
  for (const std::string& fault : faults) all += fault + "\n";
  INFO(all);
  CHECK(faults.size() == 5);
  CHECK(all.find("train-000003.bin: offset 1024: id 256") != std::string::npos);
  remove_tree(folder / kManifestName);
  CHECK(find_faults(folder / "train-000003.bin").empty());
  CHECK(find_faults(folder / "train-000003.bin", 200).size() == 1);
}
