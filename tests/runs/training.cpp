#include "training.h"

#include "support/paths.h"
#include "train/checkpoint/names.h"

#include <algorithm>
#include <csignal>
#include <random>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace sffn::test {
namespace {

constexpr unsigned kCorpusSeed = 20;

// Words of few letters, so that there is something to learn.
std::string generated_text(std::mt19937& random) {
  std::string text;
  for (int word = 0; word < 300; ++word) {
    const char letter = static_cast<char>('a' + random() % 8);
    text.append(1 + random() % 6, letter) += ' ';
  }
  return text;
}

Json small_config(const std::string& data) {
  return parse_json(cat(R"({"model": {"backbone": "gpt", "vocab_size": "from_data", "context": 32, "layers": 2,
      "d_model": 32, "heads": 2, "dropout": 0.1},
    "data": {"train": [{"path": ")",
                        data, R"(/train-*.bin"}], "validation": {"held_out": ")", data, R"(/val-*.bin"}},
    "optimizer": {"lr": 1e-2, "schedule": {"type": "cosine", "warmup_steps": 4}},
    "train": {"steps": 20, "tokens_per_step": 256, "micro_batch": 1, "seed": 7},
    "evaluation": {"tokens": 512}, "checkpoint": {"keep": 10},
    "log": {"every": 1, "tensorboard": false, "state_hash": true}})"),
                    "config", ExitCode::kUsage);
}

}  // namespace

std::vector<std::string> Ended::error_lines() const {
  std::vector<std::string> lines;
  std::istringstream in(errors);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("error: ") || line.find("] error: ") != std::string::npos) lines.push_back(line);
  }
  return lines;
}

std::string to_string(const Ended& ended) {
  return cat("code ", ended.code, " after ", ended.seconds, " s\n", ended.output, "--- stderr\n", ended.errors);
}

Workplace::Workplace() {
  std::mt19937 random(kCorpusSeed);
  std::filesystem::create_directory(folder_ / "text");
  for (int i = 0; i < 20; ++i) write_text(folder_ / cat("text/", i, ".txt"), generated_text(random));
  const Ended prepared = run({"prepare", "--input", folder_ / "text", "--out", folder_ / "data", "--tokenizer", "bytes",
                              "--val-fraction", "0.2"});
  if (prepared.code != 0) throw std::runtime_error("sffn prepare: " + to_string(prepared));
  write_config(small_config(folder_ / "data"));
}

Ended Workplace::execute(std::vector<std::string> command, int ranks, ProcessOptions options) const {
  const std::string errors = folder_ / "stderr";
  if (ranks > 1) command = mpirun(ranks, command);
  command.insert(command.begin(), {"sh", "-c", "exec \"$@\" 2>\"$0\"", errors});
  // Ranks and threads that wait leave the core to others: the machine may be busy.
  options.environment.insert(options.environment.end(), {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                                         "OMPI_MCA_mpi_yield_when_idle=1", "OMP_WAIT_POLICY=passive"});
  const ProcessResult result = run_process(command, options);
  return {result.code, result.output, read_text(errors), result.seconds};
}

Ended Workplace::run(const std::vector<std::string>& arguments, int ranks) const {
  std::vector<std::string> command = {SFFN_BINARY};
  command.insert(command.end(), arguments.begin(), arguments.end());
  ProcessOptions options;
  options.environment = {"OMP_NUM_THREADS=1", "SFFN_FAULT"};
  return execute(std::move(command), ranks, std::move(options));
}

Ended Workplace::train(const Start& start) const {
  std::vector<std::string> command = {SFFN_BINARY, "train", path(start.config), "--run", path(start.run)};
  for (const std::string& setting : start.set) command.insert(command.end(), {"--set", setting});
  command.insert(command.end(), start.arguments.begin(), start.arguments.end());
  ProcessOptions options;
  options.environment = {cat("OMP_NUM_THREADS=", start.threads), "SFFN_FAULT"};
  if (!start.fault.empty()) {
    command.push_back("--enable-fault-injection");
    options.environment.back() += "=" + start.fault;
  }
  options.on_output = start.on_output;
  options.limit_s = start.limit_s;
  return execute(std::move(command), start.ranks, std::move(options));
}

Json Workplace::config() const { return parse_json(read_text(folder_ / "config.json"), "config", ExitCode::kUsage); }

void Workplace::write_config(const Json& config, const std::string& name) const {
  write_text(folder_ / name, config.dump(1));
}

std::vector<Json> Workplace::metrics(const std::string& run) const {
  std::vector<Json> records;
  std::istringstream in(read_text(path(run) + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) records.push_back(parse_json(line, "metrics", ExitCode::kDamaged));
  return records;
}

Steps Workplace::steps(const std::string& run) const {
  Steps steps;
  for (const Json& record : metrics(run)) {
    if (record.find("loss") == nullptr) continue;
    const StepRecord step = {record.find("loss")->as_double(), record.find("lr")->as_double(),
                             record.find("grad_norm")->as_double(), record.find("tokens")->as_int(),
                             record.find("state_hash")->as_string()};
    const int64_t number = record.find("step")->as_int();
    if (!steps.emplace(number, step).second) throw std::runtime_error(cat("step ", number, " stands twice in ", run));
  }
  return steps;
}

std::vector<int64_t> Workplace::saved_steps(const std::string& run) const {
  std::vector<int64_t> steps;
  for (const auto& entry : std::filesystem::directory_iterator(path(run) + "/checkpoints")) {
    if (const auto step = parse_step_name(entry.path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string Workplace::checkpoint(const std::string& run, int64_t step) const {
  return path(run) + "/checkpoints/" + step_name(step);
}

bool Workplace::verifies(const std::string& run_name, int64_t step) const {
  return run({"verify", "--checkpoint", checkpoint(run_name, step)}).code == 0;
}

std::map<int, pid_t> rank_processes(pid_t launcher) {
  std::map<int, pid_t> ranks;
  std::ifstream children(cat("/proc/", launcher, "/task/", launcher, "/children"));
  for (pid_t process; children >> process;) {
    std::ifstream environment(cat("/proc/", process, "/environ"));
    for (std::string setting; std::getline(environment, setting, '\0');) {
      const std::string name = "OMPI_COMM_WORLD_RANK=";
      if (setting.starts_with(name)) ranks[std::stoi(setting.substr(name.size()))] = process;
    }
  }
  return ranks;
}

std::function<void(const std::string&, pid_t)> when_it_says(const std::string& line,
                                                            std::function<void(pid_t launcher)> act) {
  return [line, act = std::move(act), done = false](const std::string& output, pid_t process) mutable {
    if (done || output.find(line) == std::string::npos) return;
    done = true;
    act(process);
  };
}

std::string flip_bit(std::string bytes, size_t offset) {
  bytes.at(offset) = static_cast<char>(bytes[offset] ^ 1);
  return bytes;
}

}  // namespace sffn::test
