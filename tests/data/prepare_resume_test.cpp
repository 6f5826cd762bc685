#include "data/prepare_case.h"
#include "data/prepare_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

using namespace sffn;
using namespace sffn::test;

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
      side.token_counts.resize(257);
      for (const int32_t id : ids_of(TokenFile(options.out + "/" + shard.file, &shard, 257))) ++side.token_counts[id];
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
