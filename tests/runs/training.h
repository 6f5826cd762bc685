// Training runs of the real binary: a small model on a generated corpus, and what a run leaves behind.
#pragma once
#include "core/json.h"
#include "support/process.h"
#include "support/temp_folder.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace sffn::test {

struct Ended {
  int code = -1;               // exit code, 128 + signal, or -1 when the limit ended it
  std::string output, errors;  // stdout, stderr
  double seconds = 0;

  bool says(const std::string& part) const { return (output + errors).find(part) != std::string::npos; }
  // The lines of stderr that begin with "error: ".
  std::vector<std::string> error_lines() const;
};
std::string to_string(const Ended& ended);  // for INFO

struct Start {
  std::string run = "run";                  // below the workplace's folder, or absolute
  int ranks = 1;                            // 1: without mpirun
  std::vector<std::string> set = {};        // path.to.key=value
  std::vector<std::string> arguments = {};  // more options
  std::string fault = {};                   // SFFN_FAULT, which is obeyed
  int threads = 1;
  std::string config = "config.json";
  // Called with all of stdout so far whenever there is more.
  std::function<void(const std::string& output, pid_t process)> on_output = {};
  double limit_s = 60;
};

struct StepRecord {
  double loss = 0, learning_rate = 0, gradient_norm = 0;
  int64_t tokens = 0;
  std::string state_hash;

  bool operator==(const StepRecord&) const = default;
};
using Steps = std::map<int64_t, StepRecord>;

// A folder with a prepared corpus (data/train-*.bin, data/val-*.bin) and config.json: gpt, 2 layers, d 32, 2 heads,
// context 32, bytes, 20 steps of 8 sequences in micro-batches of 1, every step in metrics.jsonl with its state hash.
class Workplace {
 public:
  Workplace();

  Ended train(const Start& start = {}) const;
  Ended run(const std::vector<std::string>& arguments, int ranks = 1) const;  // any subcommand of sffn

  std::string path(const std::string& name) const { return name[0] == '/' ? name : folder_ / name; }
  Json config() const;
  void write_config(const Json& config, const std::string& name = "config.json") const;
  std::vector<Json> metrics(const std::string& run) const;
  // The step records of metrics.jsonl; throws when a step stands there twice.
  Steps steps(const std::string& run) const;
  Json last_record(const std::string& run) const { return metrics(run).back(); }
  std::vector<int64_t> saved_steps(const std::string& run) const;  // ascending
  std::string checkpoint(const std::string& run, int64_t step) const;
  bool verifies(const std::string& run, int64_t step) const;  // `sffn verify` says so

 private:
  Ended execute(std::vector<std::string> command, int ranks, ProcessOptions options) const;

  TempFolder folder_{TempFolder::kMemory};
};

// Processes of the ranks that mpirun `launcher` started, by rank.
std::map<int, pid_t> rank_processes(pid_t launcher);
// An on_output that calls `act` once, when `line` has been printed.
std::function<void(const std::string&, pid_t)> when_it_says(const std::string& line,
                                                            std::function<void(pid_t launcher)> act);
std::string flip_bit(std::string bytes, size_t offset);

}  // namespace sffn::test
