#include "data/prepare.h"

#include "core/random.h"
#include "data/corpus.h"
#include "data/fixture.h"
#include "data/prepare_journal.h"
#include "support/catch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <set>

using namespace sffn;
using namespace sffn::test;

namespace {

std::string words(uint64_t seed, size_t count) {
  static const char* kWords[] = {"alpha", "beta", "gamma", "delta", "model", "of", "the", "and"};
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += kWords[random_bits(random_key(seed, RandomSite::kRandomTokens, 0, 0), i) % 8];
    text += i % 11 == 10 ? "\n" : i % 37 == 36 ? "\n\n" : " ";
  }
  return text;
}

// `count` small files, one of them empty, one a copy of another, and one of 600 kB.
void write_texts(const std::string& folder, size_t count) {
  make_directories(folder);
  for (size_t i = 0; i < count; ++i) write_text(cat(folder, "/t", 100 + i, ".txt"), words(i, 5 + i * 3 % 200));
  write_text(folder + "/copy.md", words(3, 5 + 9));
  write_text(folder + "/empty.txt", "");
  write_text(folder + "/large.txt", words(99, 120000));
}

PrepareOptions options_of(const std::string& input, const std::string& out) {
  PrepareOptions options;
  options.inputs = {input};
  options.out = out;
  options.name = "test";
  options.val_fraction = 0.2;
  options.shard_tokens = 50'000;
  options.jobs = 2;
  return options;
}

PrepareSummary prepare_quietly(const PrepareOptions& options) { return prepare(options, nullptr); }

std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const std::string& name : list_directory(folder)) files[name] = read_text(folder + "/" + name);
  return files;
}

// The documents of one side, split at its end-of-document ids.
std::vector<std::string> texts_of(const std::string& pattern) {
  const Corpus corpus(pattern);
  const auto tokenizer = load_tokenizer(*corpus.tokenizer());
  std::vector<std::string> texts(1);
  for (const TokenFile& shard : corpus.shards()) {
    std::vector<int32_t> ids(static_cast<size_t>(shard.tokens()));
    shard.read(ids.data(), 0, shard.tokens());
    for (const int32_t id : ids) {
      texts.back() += tokenizer->text_of(id);
      if (id == tokenizer->end_of_document()) texts.emplace_back();
    }
  }
  CHECK(texts.back().empty());
  texts.pop_back();
  return texts;
}

}  // namespace

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

// Kills: a run that starts over, skips or repeats documents after a kill, or leaves a torn shard under a final name.
TEST_CASE("a run that was killed goes on to the same bytes", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 40);
  write_text(folder / "in/zz.txt", words(1234, 30000));
  PrepareOptions options = options_of(folder / "in", folder / "whole");
  options.shard_tokens = 30'000;
  const int64_t shards = static_cast<int64_t>(prepare_quietly(options).manifest.train.shards.size());
  REQUIRE(shards >= 10);
  const auto expected = contents(folder / "whole");
  options.out = folder / "killed";
  int64_t kills = 0;
  for (const uint64_t kill_at : {200'000ull, 500'000ull, 600'000ull, 650'000ull}) {
    const pid_t child = fork();
    if (child == 0) {
      prepare(options, [&](const PrepareProgress& p) {
        if (std::string(p.phase) == "tokenizing" && p.bytes >= kill_at) raise(SIGKILL);
      });
      _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    kills += WIFSIGNALED(status);
    CHECK(!exists(folder / "killed/manifest.json"));
    for (const std::string& path : glob_paths(folder / "killed/*.bin")) {
      CHECK(read_text(path) == expected.at(path.substr(path.rfind('/') + 1)));
    }
  }
  CHECK(kills == 4);
  const PrepareSummary summary = prepare_quietly(options);
  CHECK(summary.resumed_shards > 0);
  CHECK(contents(folder / "killed") == expected);
  CHECK(prepare_quietly(options).already_complete);
}

// Kills: a cut document that is written twice or not finished after a resume.
TEST_CASE("a run that ends inside a document that spans shards goes on to the same bytes", "[data]") {
  const TempFolder folder;
  for (size_t i = 0; i < 4; ++i) write_text(folder / cat("a", i, ".txt"), words(i, 500));
  PrepareOptions options = options_of(folder / "a*.txt", folder / "whole");
  options.shard_tokens = 1000;
  prepare_quietly(options);
  const auto expected = contents(folder / "whole");
  const Manifest whole = *find_manifest(folder / "whole");
  for (const size_t kept : {1u, 4u, 6u}) {
    // The folder as a kill right after its shard number `kept` leaves it.
    options.out = folder / cat("cut", kept);
    make_directories(options.out);
    PrepareJournal journal;
    journal.plan = whole;
    journal.plan.train = journal.plan.validation = {};
    int64_t tokens = 0, document_tokens = 0;
    for (size_t i = 0; i < kept; ++i) {
      const ShardRecord& shard = whole.train.shards.at(i);
      write_text(options.out + "/" + shard.file, expected.at(shard.file));
      SideRecord& side = journal.train.record;
      side.documents += shard.documents, side.tokens += shard.tokens, side.bytes += shard.bytes;
      side.shards.push_back(shard);
      tokens += shard.tokens;
      if (shard.documents > 0) document_tokens = tokens;
    }
    journal.train.cut_tokens = tokens - document_tokens;
    write_journal(options.out, journal);
    CHECK(prepare_quietly(options).resumed_shards == static_cast<int64_t>(kept));
    CHECK(contents(options.out) == expected);
  }
}

// Kills: going on from a shard that was damaged meanwhile.
TEST_CASE("an interrupted run with a damaged shard starts over and says so", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 30);
  PrepareOptions options = options_of(folder / "in", folder / "whole");
  prepare_quietly(options);
  const auto expected = contents(folder / "whole");
  options.out = folder / "stopped";
  struct Stop {};
  try {
    prepare(options, [](const PrepareProgress& p) {
      if (std::string(p.phase) == "tokenizing" && p.bytes > 500'000) throw Stop();
    });
    CHECK(false);
  } catch (const Stop&) {
  }
  for (const std::string& name : list_directory(options.out)) CHECK(name.find(".tmp") == std::string::npos);
  const auto shards = glob_paths(folder / "stopped/train-*.bin");
  REQUIRE(!shards.empty());
  flip_bit(shards.front(), 2000);
  const PrepareSummary summary = prepare_quietly(options);
  CHECK(summary.resumed_shards == 0);
  CHECK(summary.notes.back().find("starting over") != std::string::npos);
  CHECK(contents(options.out) == expected);
}

// Kills: overwriting somebody's shards, and mixing two preparations in one folder.
TEST_CASE("a folder with another result is refused and the same result is not made twice", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 10);
  const PrepareOptions options = options_of(folder / "in", folder / "out");
  prepare_quietly(options);
  const auto before = contents(folder / "out");
  CHECK(prepare_quietly(options).already_complete);
  PrepareOptions other = options;
  other.val_fraction = 0.3;
  CHECK(caught([&] { prepare_quietly(other); }).has("--val-fraction"));
  other = options, other.shard_tokens = 60'000;
  CHECK(caught([&] { prepare_quietly(other); }).has("--shard-tokens"));
  other = options, other.tokenizer = parse_tokenizer_choice("spm-train:400");
  CHECK(caught([&] { prepare_quietly(other); }).has("--tokenizer"));
  write_text(folder / "in/copy.md", read_text(folder / "in/copy.md"));  // another time, the same text
  CHECK(prepare_quietly(options).already_complete);
  write_text(folder / "in/copy.md", "other text");
  const Caught changed = caught([&] { prepare_quietly(options); });
  CHECK(changed.code == 2);
  CHECK(changed.has("another text"));
  CHECK(contents(folder / "out") == before);
  remove_tree(folder / "out/manifest.json");
  CHECK(caught([&] { prepare_quietly(options); }).has("without a manifest.json"));
  const int held = open((folder / "out").c_str(), O_RDONLY | O_DIRECTORY);
  REQUIRE(flock(held, LOCK_EX) == 0);
  CHECK(caught([&] { prepare_quietly(options); }).has("in use"));
  close(held);
}

// Kills: a full disk that passes, and a shard under its final name that is not whole.
TEST_CASE("a disk that takes no more is a failed run that names the file and can go on", "[data]") {
  const TempFolder folder;
  write_texts(folder / "in", 20);
  PrepareOptions options = options_of(folder / "in", folder / "out");
  options.shard_tokens = 500'000;
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {300'000, 300'000};  // of a file: write() then fails as on a full disk
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(77);
    const Caught error = caught([&] { prepare_quietly(options); });
    _exit(error.code == 1 && error.has("train-000000.bin.tmp") ? 55 : 66);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 55);
  CHECK(glob_paths(folder / "out/*.bin*").empty());
  CHECK(prepare_quietly(options).manifest.train.bytes > 400'000);
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
