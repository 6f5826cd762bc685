// Damage done to a committed step, and what a resume makes of it.
#include "comm/threads.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/fingerprints.h"
#include "support/temp_folder.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/record.h"

#include <sys/stat.h>

#include <filesystem>
#include <functional>

using namespace sffn;
using namespace sffn::test;
namespace fs = std::filesystem;

namespace {

void save_alone(const std::string& run, int64_t step) {
  const auto comm = make_self_communicator();
  State state(*comm, small_model(), true);
  state.fill(step);
  CheckpointWriter(*comm, run, {}, {}).save(step, state.contents());
}

struct Outcome {
  int64_t step = -1;  // resumed from; -1: fresh start, -2: exit code 3
  std::vector<int64_t> rejected;
  bool right = true;  // every element is that of the step
  std::string error;
};

Outcome resume(const std::string& run, const std::string& mode = "auto", ReadOptions options = {}) {
  const auto comm = make_self_communicator();
  Outcome outcome;
  try {
    const Resume resume = choose_resume(*comm, run, mode, options);
    outcome.rejected = resume.rejected;
    if (!resume.checkpoint) return outcome;
    State state(*comm, small_model(), true);
    state.poison();
    resume_from(*comm, *resume.checkpoint, state.parameters(), state.moments());
    outcome.step = resume.checkpoint->step;
    outcome.right = state.wrong(outcome.step) == 0;
  } catch (const Error& e) {
    REQUIRE(e.code() == ExitCode::kDamaged);
    outcome.step = -2;
    outcome.error = e.what();
  }
  return outcome;
}

using Damage = std::function<void(std::string& bytes)>;
void flip(std::string& bytes, size_t at) { bytes.at(at) = static_cast<char>(bytes.at(at) ^ 0x10); }

const std::vector<std::pair<const char*, Damage>>& operations_in_place() {
  static const std::vector<std::pair<const char*, Damage>> list{
      {"empty", [](std::string& b) { b.clear(); }},
      {"one byte less", [](std::string& b) { b.pop_back(); }},
      {"half", [](std::string& b) { b.resize(b.size() / 2); }},
      {"cut at 4 KiB", [](std::string& b) { b.resize(std::min<size_t>(4096, b.size() * 3 / 4)); }},
      {"one byte more", [](std::string& b) { b += '\0'; }},
      {"a flip in the header", [](std::string& b) { flip(b, b.size() > 20 ? 20 : 0); }},
      {"a flip in the middle", [](std::string& b) { flip(b, b.size() / 2); }},
      {"a flip in the last byte", [](std::string& b) { flip(b, b.size() - 1); }},
      {"zero 4 KiB", [](std::string& b) { std::fill(b.end() - std::min<size_t>(4096, b.size()), b.end(), '\0'); }},
  };
  return list;
}

// Only layout differs, as after the loss of the last newline.
bool says_the_same(const std::string& changed, const std::string& record) {
  try {
    return to_text(parse_record(changed, "changed")) == to_text(parse_record(record, "record"));
  } catch (const Error&) {
    return false;
  }
}

// Applies operation `op` (0..11) to one file of a step folder, or to "latest" beside it. False when nothing changed.
bool damage_file(const std::string& folder, const std::string& name, size_t op, const std::string& older) {
  const std::string path = folder + "/" + name, before = read_text(path);
  if (op < operations_in_place().size()) {
    std::string bytes = before;
    operations_in_place()[op].second(bytes);
    write_text(path, bytes);
  } else if (op == 9) {
    fs::remove(path);
    return true;
  } else if (op == 10) {
    const std::string other = folder + "/" + (name == "config.json" ? "trainer.json" : "config.json");
    const std::string partner = exists(other) ? other : folder + "/step-00000020/config.json";
    write_text(path, read_text(partner));
    write_text(partner, before);
  } else {
    write_text(path, exists(older + "/" + name) ? read_text(older + "/" + name) : "step-00000010\n");
  }
  return name == kRecordName ? !says_the_same(read_text(path), before) : read_text(path) != before;
}

constexpr size_t kOperations = 12;

// One case in a run of its own: steps 10 (when `has_older`) and 20, then damage to step 20.
void check_case(const std::string& target, size_t op, bool has_older) {
  INFO("target " << target << ", operation " << op << ", older " << has_older);
  TempFolder run(TempFolder::kMemory), spare(TempFolder::kMemory);
  save_alone(spare.path(), 10);
  if (has_older) save_alone(run.path(), 10);
  save_alone(run.path(), 20);
  const std::string folder = run / "checkpoints/step-00000020", older = spare / "checkpoints/step-00000010";
  bool changed = true;
  if (target == "latest") {
    damage_file(run / "checkpoints", "latest", op, older);
    changed = op == 10;  // exchanged with a file of the step
  } else if (target == "folder" && op == 9) {
    fs::remove_all(folder);
  } else if (target == "folder") {
    for (const std::string& name : list_directory(folder)) damage_file(folder, name, op, older);
  } else {
    changed = damage_file(folder, target, op, older);
  }
  const Outcome outcome = resume(run.path());
  if (!changed) {
    REQUIRE(outcome.step == 20);
  } else if (has_older) {
    REQUIRE(outcome.step == 10);
    REQUIRE(outcome.rejected == (target == "folder" && op == 9 ? std::vector<int64_t>{} : std::vector<int64_t>{20}));
  } else {
    REQUIRE(outcome.step == -2);
  }
  REQUIRE(outcome.right);
}

void check_target(const std::string& target) {
  for (size_t op = 0; op < kOperations; ++op) {
    for (const bool has_older : {true, false}) check_case(target, op, has_older);
  }
}

}  // namespace

// Kills: no checksums, sizes not compared, a fresh start where something was saved, damage that is not fallen back
// from.
TEST_CASE("every damage to the weights falls back to the older step, or is exit code 3", "[checkpoint][damage]") {
  check_target("model.safetensors");
}

// Kills: a file of the step that no checksum covers.
TEST_CASE("every damage to any file of a step is found", "[checkpoint][damage]") {
  for (const char* target :
       {"checksums.json", "optimizer-00000-of-00001.safetensors", "trainer.json", "config.json", "latest", "folder"}) {
    check_target(target);
  }
}

// Kills: a part of the record that nothing checks.
TEST_CASE("a record with any byte changed is rejected, or says the same", "[checkpoint][damage]") {
  TempFolder run(TempFolder::kMemory);
  save_alone(run.path(), 20);
  const std::string folder = run / "checkpoints/step-00000020", path = folder + "/checksums.json";
  const std::string record = read_text(path), canonical = to_text(parse_record(record, path));
  int64_t accepted = 0;
  for (size_t i = 0; i < record.size(); ++i) {
    for (const int bits : {0x01, 0x80}) {
      std::string changed = record;
      changed[i] = static_cast<char>(changed[i] ^ bits);
      write_text(path, changed);
      if (!verify_checkpoint(folder).empty()) continue;
      ++accepted;
      INFO("byte " << i << " xor " << bits);
      REQUIRE(to_text(parse_record(changed, path)) == canonical);
    }
  }
  CHECK(accepted < 10);
}

// Kills: following names or links out of the folder, blocking on a FIFO, sizes believed before they are seen.
TEST_CASE("hostile step folders are rejected and nothing outside is read", "[checkpoint][damage]") {
  const std::string model = "model.safetensors";
  const auto replace = [](std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  using Attack = std::function<void(const std::string& folder)>;
  const auto in_record = [&](const std::string& from, const std::string& to) -> Attack {
    return [=](const std::string& folder) {
      write_text(folder + "/checksums.json", replace(read_text(folder + "/checksums.json"), from, to));
    };
  };
  const auto moved_out = [&](const std::string& folder) {
    const std::string outside = folder + "/../../outside";
    fs::rename(folder + "/" + model, outside);
    return outside;
  };
  const std::vector<std::pair<const char*, Attack>> attacks{
      {"leads out of its folder", in_record("\"model.safetensors\"", "\"../model.safetensors\"")},
      {"leads out of its folder", in_record("\"model.safetensors\"", "\"/etc/passwd\"")},
      {"leads out of its folder", in_record("\"model.safetensors\"", "\"..\"")},
      {"leads out of its folder", in_record("\"model.safetensors\"", "\"model.safetensors\\u0000\"")},
      {"unknown file",
       in_record("\"model.safetensors\"", "\"a\": {\"bytes\": 0, \"xxh3_128\": []}, \"model.safetensors\"")},
      {"unknown file", in_record("\"ranks\": 1", "\"ranks\": 4")},
      {"does not list model.safetensors", in_record("\"model.safetensors\"", "\"zodel.safetensors\"")},
      {"\"ranks\" is not an integer", in_record("\"ranks\": 1", "\"ranks\": 2000000000")},
      {"is of step 21", in_record("\"step\": 20", "\"step\": 21")},
      {"checksums for", in_record("\"bytes\": ", "\"bytes\": 9223372036854775")},
      {"it is a link", [&](const std::string& folder) { fs::create_symlink(moved_out(folder), folder + "/" + model); }},
      {"not a regular file",
       [&](const std::string& folder) {
         moved_out(folder);
         fs::create_directory(folder + "/" + model);
       }},
      {"not a regular file",
       [&](const std::string& folder) {
         moved_out(folder);
         REQUIRE(mkfifo((folder + "/" + model).c_str(), 0600) == 0);
       }},
      {"is not a folder",
       [&](const std::string& folder) {
         fs::rename(folder, folder + "/../../elsewhere");
         fs::create_directory_symlink(folder + "/../../elsewhere", folder);
       }},
      {"nesting", [&](const std::string& folder) { write_text(folder + "/checksums.json", std::string(100000, '[')); }},
      {"bytes; at most",
       [&](const std::string& folder) {
         fs::resize_file(folder + "/checksums.json", kMaxRecordBytes + 1);  // sparse
       }},
  };
  for (const auto& [says, attack] : attacks) {
    TempFolder run(TempFolder::kMemory);
    save_alone(run.path(), 20);
    attack(run / "checkpoints/step-00000020");
    const Outcome outcome = resume(run.path());
    INFO("expected: " << says);
    REQUIRE(outcome.step == -2);
    if (std::string(says) == "is not a folder") continue;  // judged by its name in the run, before it is entered
    const std::vector<std::string> faults = verify_checkpoint(run / "checkpoints/step-00000020");
    REQUIRE_FALSE(faults.empty());
    INFO("said: " << faults[0]);
    CHECK(faults[0].find(says) != std::string::npos);
  }
}

// Kills: --no-verify that skips more than checksums.
TEST_CASE("without verification sizes and records still count, checksums do not", "[checkpoint][damage]") {
  TempFolder run(TempFolder::kMemory);
  save_alone(run.path(), 20);
  const std::string path = run / "checkpoints/step-00000020/model.safetensors";
  std::string bytes = read_text(path);
  flip(bytes, bytes.size() - 1);
  write_text(path, bytes);
  ReadOptions options;
  options.verify = false;
  CHECK(resume(run.path(), "auto", options).step == 20);
  CHECK(resume(run.path()).step == -2);
  write_text(path, bytes + "x");
  CHECK(resume(run.path(), "auto", options).step == -2);
}

// Kills: blocks that no rank looks at when the work is shared.
TEST_CASE("a flip in any block is found by any number of ranks", "[checkpoint][damage]") {
  TempFolder run;
  const auto alone = make_self_communicator();
  const Tensors tensors{{"a", {3, 1 << 21}}, {"b", {5}}};
  State state(*alone, tensors, true);
  state.fill(20);
  write_checkpoint(*alone, run / "step-00000020", 20, state.contents());
  const std::string path = run / "step-00000020/model.safetensors", sound = read_text(path);
  for (size_t block = 0; block * kChecksumBlock < sound.size(); ++block) {
    std::string bytes = sound;
    flip(bytes, std::min<size_t>((block + 1) * kChecksumBlock, bytes.size()) - 1);
    write_text(path, bytes);
    for (const int ranks : {1, 2, 3}) {
      run_threads(ranks, [&](Communicator& comm) {
        std::string error;
        try {
          find_checkpoint(comm, run / "step-00000020");
        } catch (const Error& e) {
          error = e.what();
        }
        SFFN_CHECK(error.find(cat("bytes [", block * kChecksumBlock)) != std::string::npos, "not found: ", error);
      });
    }
  }
}
