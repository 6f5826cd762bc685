// The real binary as users start it, stdout and stderr apart, and small data and models to start it on.
#pragma once
#include "core/json.h"
#include "support/catch.h"
#include "support/paths.h"
#include "support/process.h"
#include "support/temp_folder.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace sffn::test {

using Words = std::vector<std::string>;

struct Ran {
  int code = -1;
  std::string out, err;
  double seconds = 0;
  Json json() const { return parse_json(out, "stdout", ExitCode::kRunFailed); }
  // Exactly one line "error: ..." that has `part`.
  bool one_error_line(const std::string& part) const {
    return out.empty() && err.rfind("error: ", 0) == 0 && err.find('\n') == err.size() - 1 &&
           err.find(part) != std::string::npos;
  }
};

// One OpenMP thread a rank: the sizes are tiny and the tests run beside each other. ranks 0: without mpirun.
inline Ran run_sffn(const Words& arguments, int ranks = 0) {
  const TempFolder folder(TempFolder::kMemory);
  Words program = {SFFN_BINARY};
  program.insert(program.end(), arguments.begin(), arguments.end());
  if (ranks > 0) program = mpirun(ranks, program);
  Words command = {"sh", "-c", "err=$1; shift; exec \"$@\" 2>\"$err\"", "sh", folder / "stderr"};
  command.insert(command.end(), program.begin(), program.end());
  const ProcessResult result = run_process(command, {.environment = {"OMP_NUM_THREADS=1"}, .on_output = {}});
  return {result.code, result.output, read_text(folder / "stderr"), result.seconds};
}

// The same, and it must succeed.
inline Ran sffn_done(const Words& arguments, int ranks = 0) {
  Ran ran = run_sffn(arguments, ranks);
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  return ran;
}

inline Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline double number(const Json& json, const std::string& key) {
  INFO(key);
  REQUIRE(json.find(key) != nullptr);
  return json.find(key)->as_double();
}

inline std::vector<std::string> keys_of(const Json& json) {
  std::vector<std::string> keys;
  for (const Json::Member& member : json.as_object()) keys.push_back(member.key);
  return keys;
}

inline bool has_keys(const Json& json, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (json.find(key) == nullptr) return false;
  }
  return true;
}

// A token file of 16-bit ids without a manifest, as llm.c writes them.
inline void write_shard(const std::string& path, const std::vector<int>& ids) {
  std::string bytes(1024, '\0');
  const auto put = [&](size_t word, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes[4 * word + i] = static_cast<char>(value >> 8 * i);
  };
  put(0, 20240520);
  put(1, 1);
  put(2, static_cast<uint32_t>(ids.size()));
  for (const int id : ids) bytes += {static_cast<char>(id), static_cast<char>(id >> 8)};
  write_text(path, bytes);
}

inline std::vector<int> read_shard(const std::string& path) {
  const std::string bytes = read_text(path);
  std::vector<int> ids;
  for (size_t at = 1024; at + 1 < bytes.size(); at += 2) {
    ids.push_back(static_cast<unsigned char>(bytes[at]) | static_cast<unsigned char>(bytes[at + 1]) << 8);
  }
  return ids;
}

inline std::vector<int> arbitrary_ids(size_t count, int vocabulary, uint32_t seed = 1) {
  std::vector<int> ids;
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    ids.push_back(static_cast<int>((seed >> 8) % static_cast<uint32_t>(vocabulary)));
  }
  return ids;
}

inline void write_ids(const std::string& path, const std::vector<int>& ids) {
  std::string bytes;
  for (const int id : ids) {
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> 8 * i));
  }
  write_text(path, bytes);
}

// One layer of width 16, context 16, 257 ids.
inline std::string write_model(const TempFolder& folder, const std::string& more = "") {
  const std::string path = folder / "model.json";
  write_text(path, R"({"model": {"backbone": "gpt", "vocab_size": 257, "context": 16, "layers": 1, "d_model": 16,
    "heads": 2, "ffn": {"type": "dense", "d_ff": 32}},
    "optimizer": {"lr": 1e-2, "schedule": {"type": "constant"}},
    "train": {"steps": 2, "tokens_per_step": 192, "micro_batch": 2}, "log": {"every": 1, "tensorboard": false})" +
                       more + "}");
  return path;
}

// Folder `name` with `count` documents of words, prepared with the given options.
inline std::string prepare_words(const TempFolder& folder, const std::string& name, int count,
                                 const Words& options = {"--val-fraction", "0.4"}) {
  static const char* const kWords[] = {"sparse", "layer", "na\xc3\xafve", "of", "the", "memory", "cell", "key\n"};
  const std::string text = folder / (name + "-text");
  std::filesystem::create_directories(text);
  uint32_t seed = static_cast<uint32_t>(name[0]);
  for (int i = 0; i < count; ++i) {
    std::string document = name + " " + std::to_string(i);
    for (const int word : arbitrary_ids(30 + static_cast<size_t>(i), 8, seed + static_cast<uint32_t>(i))) {
      document += std::string(" ") + kWords[word];
    }
    write_text(text + "/" + std::to_string(i) + ".txt", document);
  }
  sffn_done(Words{"prepare", "--input", text, "--out", folder / name} + options);
  return folder / name;
}

inline Words train_command(const std::string& config, const std::string& data, const std::string& run) {
  return {"train", config, "--run", run, "--set", "data.train=[{\"path\": \"" + data + "/train-*.bin\"}]"};
}

}  // namespace sffn::test
