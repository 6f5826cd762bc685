#include "data/prepare_case.h"
#include "data/prepare_journal.h"

#include <algorithm>
#include <set>

using namespace sffn;
using namespace sffn::test;

// Kills: lost, doubled or altered text, a missing end of document, counts that do not add up.
TEST_CASE("all text arrives once, each document followed by its end", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 60);
  const PrepareSummary summary = prepare_quietly(options_of(folder / "in", folder / "out"));
  const Manifest& m = summary.manifest;
  auto train = texts_of(folder / "out/train-*.bin"), validation = texts_of(folder / "out/val-*.bin");
  CHECK(m.duplicates == 1);
  CHECK(m.empty == 1);
  CHECK(static_cast<int64_t>(train.size()) == m.train.documents);
  CHECK(static_cast<int64_t>(validation.size()) == m.validation.documents);
  CHECK(m.train.tokens == m.train.bytes + m.train.documents);
  for (const auto& [side, pattern] :
       {std::pair(&m.train, "out/train-*.bin"), std::pair(&m.validation, "out/val-*.bin")}) {
    std::vector<int64_t> counts(257);
    for (const std::string& text : texts_of(folder / pattern)) {
      ++counts[256];
      for (const char c : text) ++counts[static_cast<unsigned char>(c)];
    }
    CHECK(side->token_counts == counts);
  }
  std::set<std::string> all(train.begin(), train.end());
  all.insert(validation.begin(), validation.end());
  CHECK(all.size() == train.size() + validation.size());
  size_t large = 0;
  for (const std::string& text : all) large += text.size();
  std::set<std::string> inputs;
  size_t expected = 0;
  for (const auto& [name, text] : contents(folder / "in")) {
    if (inputs.insert(text).second) expected += text.size();
    if (!text.empty() && text.size() < 256 * 1024) CHECK(all.count(text) == 1);
  }
  CHECK(large == expected);
  CHECK(find_manifest(folder / "out") == m);
  CHECK(find_faults(folder / "out/*.bin").empty());
  CHECK(!exists(folder / ("out/" + std::string(kJournalName))));
  CHECK(m.train.shards.size() > 5);
  for (const ShardRecord& shard : m.train.shards) CHECK(shard.tokens <= 50'000);
  CHECK(m.newlines == "kept");
}

// Kills: an output that depends on threads, on the order of the inputs' naming, or on the clock.
TEST_CASE("the result does not depend on the number of threads or the order of the inputs", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 40);
  PrepareOptions one = options_of(folder / "in", folder / "a");
  one.jobs = 1;
  prepare_quietly(one);
  const auto expected = contents(folder / "a");
  for (const int jobs : {2, 3, 8}) {
    PrepareOptions many = options_of(folder / "in", folder / cat("b", jobs));
    many.jobs = jobs;
    many.inputs = {folder / "in/t1[23]*.txt", folder / "in/large.txt", folder / "in"};
    prepare_quietly(many);
    CHECK(contents(many.out) == expected);
  }
}

// Kills: a split by order or position, or one that changes when documents are added.
TEST_CASE("a document's side follows from its text alone", "[data]") {
  const TempFolder folder;
  for (size_t i = 0; i < 400; ++i) write_text(folder / cat(i % 2 ? "a" : "b", i, ".txt"), words(i, 20));
  PrepareOptions all = options_of(folder.path(), folder / "all"), some = options_of(folder / "a*.txt", folder / "some");
  const PrepareSummary summary = prepare_quietly(all);
  prepare_quietly(some);
  const auto validation = texts_of(folder / "all/val-*.bin");
  const std::set<std::string> wanted(validation.begin(), validation.end());
  for (const std::string& text : texts_of(folder / "some/val-*.bin")) CHECK(wanted.count(text) == 1);
  for (const std::string& text : texts_of(folder / "some/train-*.bin")) CHECK(wanted.count(text) == 0);
  CHECK(summary.manifest.validation.documents > 50);
  CHECK(summary.manifest.validation.documents < 110);
}

// Kills: an empty side, and a line that is not written.
TEST_CASE("a side that would be empty gets the document with the extreme hash", "[data]") {
  const TempFolder folder;
  std::map<Hash128, std::string> by_hash;
  for (size_t i = 0; i < 9; ++i) {
    const std::string text = words(i, 20);
    by_hash[hash128(text)] = text;
    write_text(folder / cat("in", i, ".txt"), text);
  }
  PrepareOptions options = options_of(folder / "in*.txt", folder / "none");
  options.val_fraction = 0;
  CHECK(prepare_quietly(options).notes.at(0).find("smallest hash") != std::string::npos);
  CHECK(texts_of(folder / "none/val-*.bin") == std::vector<std::string>{by_hash.begin()->second});
  options.out = folder / "most";
  options.val_fraction = 0.9999999;
  CHECK(prepare_quietly(options).notes.at(0).find("largest hash") != std::string::npos);
  CHECK(texts_of(folder / "most/train-*.bin") == std::vector<std::string>{by_hash.rbegin()->second});
}

// Kills: runs on nothing, and options that are not looked at.
TEST_CASE("too few documents and bad options are usage errors", "[data]") {
  const TempFolder folder;
  write_text(folder / "one.txt", "one");
  write_text(folder / "empty.txt", "");
  const auto code = [&](auto change) {
    PrepareOptions options = options_of(folder / "*.txt", folder / "out");
    change(options);
    return caught([&] { prepare_quietly(options); });
  };
  CHECK(code([](PrepareOptions&) {}).has("single document"));
  write_text(folder / "same.txt", "one");
  CHECK(code([](PrepareOptions&) {}).code == 2);
  CHECK(code([&](PrepareOptions& o) { o.inputs = {folder / "empty.txt"}; }).code == 2);
  write_text(folder / "two.txt", "two");
  for (const double fraction : {-0.1, 1.0, 2.0})
    CHECK(code([&](PrepareOptions& o) { o.val_fraction = fraction; }).code == 2);
  for (const int64_t tokens : {int64_t{0}, int64_t{-1}, int64_t{1} << 40}) {
    CHECK(code([&](PrepareOptions& o) { o.shard_tokens = tokens; }).code == 2);
  }
  CHECK(code([](PrepareOptions& o) { o.inputs.clear(); }).code == 2);
  CHECK(code([](PrepareOptions& o) { o.out.clear(); }).code == 2);
  CHECK(code([&](PrepareOptions& o) { o.out = folder / "one.txt/x"; }).code == 2);
  CHECK(code([&](PrepareOptions& o) { o.tokenizer = parse_tokenizer_choice("spm:" + (folder / "none.model")); }).code ==
        2);
  CHECK(code([](PrepareOptions&) {}).code == 0);
}

// Kills: shards that end in mid-document, and a document longer than a shard that is lost or makes it too long.
TEST_CASE("only a document longer than a shard is cut at its end", "[data]") {
  const TempFolder folder;
  for (size_t i = 0; i < 30; ++i) write_text(folder / cat("a", 10 + i, ".txt"), words(i, 10 + i % 5));
  const std::string longest = words(77, 300);
  write_text(folder / "a25b.txt", longest);
  PrepareOptions options = options_of(folder / "a*.txt", folder / "out");
  options.shard_tokens = 200;
  const Manifest m = prepare_quietly(options).manifest;
  auto texts = texts_of(folder / "out/train-*.bin"), others = texts_of(folder / "out/val-*.bin");
  texts.insert(texts.end(), others.begin(), others.end());
  CHECK(texts.size() == 31);
  CHECK(std::count(texts.begin(), texts.end(), longest) == 1);
  int64_t cut = 0;
  for (const SideRecord* side : {&m.train, &m.validation}) {
    for (const ShardRecord& shard : side->shards) {
      CHECK(shard.tokens <= 200);
      const TokenFile file(folder / ("out/" + shard.file), &shard, 257);
      int32_t last = 0;
      file.read(&last, shard.tokens - 1, 1);
      cut += last != 256;
    }
  }
  CHECK(cut == static_cast<int64_t>(longest.size() + 1) / 200);
}

// Kills: a trained tokenizer that depends on threads, is not kept beside the shards, or learns from validation.
TEST_CASE("a trained tokenizer is kept with the shards and reads them back", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 40);
  PrepareOptions options = options_of(folder / "in", folder / "a");
  options.tokenizer = parse_tokenizer_choice("spm-train:310");
  options.jobs = 1;
  const Manifest m = prepare_quietly(options).manifest;
  CHECK(m.tokenizer_file == "tokenizer.model");
  CHECK(m.vocab_size == 310);
  const auto expected = contents(folder / "a");
  options.jobs = 3;
  options.out = folder / "b";
  prepare_quietly(options);
  CHECK(contents(folder / "b") == expected);
  const auto texts = texts_of(folder / "a/train-*.bin");
  int64_t bytes = 0;
  for (const std::string& text : texts) bytes += static_cast<int64_t>(text.size());
  CHECK(bytes == m.train.bytes);
  CHECK(m.train.tokens < m.train.bytes / 2);

  options.tokenizer = parse_tokenizer_choice("spm:" + (folder / "a/tokenizer.model"));
  options.out = folder / "c";
  const Manifest loaded = prepare_quietly(options).manifest;
  CHECK(loaded.tokenizer_hash == m.tokenizer_hash);
  CHECK(loaded.train.shards == m.train.shards);
  CHECK(prepare_quietly(options).already_complete);
}

// Kills: invalid bytes replaced or dropped, or not counted.
TEST_CASE("invalid UTF-8 is kept byte by byte and counted", "[data]") {
  const TempFolder folder;
  write_text(folder / "a.txt", "caf\xE9 and \xff");
  write_text(folder / "b.txt", "fine é");
  const Manifest m = prepare_quietly(options_of(folder / "*.txt", folder / "out")).manifest;
  CHECK(m.invalid_utf8_bytes == 2);
  auto texts = texts_of(folder / "out/train-*.bin");
  for (const std::string& text : texts_of(folder / "out/val-*.bin")) texts.push_back(text);
  CHECK(std::count(texts.begin(), texts.end(), "caf\xE9 and \xff") == 1);
}
