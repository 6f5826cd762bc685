#include "kernels/ops.h"
#include "tools/tool_run.h"

#include <map>

using namespace sffn;
using namespace sffn::test;

namespace {

const std::vector<Words>& commands() {
  static const std::vector<Words> all = {{"prepare"},       {"train"},        {"eval"},         {"generate"},
                                         {"plan"},          {"probe"},        {"describe"},     {"verify"},
                                         {"bench", "step"}, {"bench", "ops"}, {"bench", "comm"}};
  return all;
}

void check_one_json_object(const Ran& ran) {
  INFO(ran.err);
  CHECK(ran.code == 0);
  CHECK(ran.err.empty());
  CHECK(ran.json().is_object());
}

}  // namespace

// Kills: a command without an example, help that fails.
TEST_CASE("every command shows help with an example", "[tools]") {
  for (const Words& command : commands()) {
    const Ran ran = run_sffn(command + Words{"--help"});
    INFO(command.back());
    CHECK(ran.code == 0);
    CHECK(ran.err.empty());
    CHECK(ran.out.find("Example") != std::string::npos);
    CHECK(ran.out.find("sffn " + command[0]) != std::string::npos);
  }
  const Ran all = run_sffn({"--help"});
  CHECK(all.code == 0);
  for (const Words& command : commands()) CHECK(all.out.find("\n  " + command[0] + " ") != std::string::npos);
  CHECK(run_sffn({"--version"}).out.rfind("sffn ", 0) == 0);
}

// Kills: an option that is silently dropped, a usage error of another exit code or of many lines.
TEST_CASE("an unknown option, command or no command at all is one line and exit code 2", "[tools]") {
  const std::string config = SFFN_SOURCE_DIR "/configs/tiny/dense.json";
  const std::vector<Words> needed = {{"--input", "x", "--out", "y"},
                                     {config, "--run", "x"},
                                     {"--checkpoint", "x", "--data", "a=b"},
                                     {"--checkpoint", "x", "--prompt", "y"},
                                     {config},
                                     {config, "--tokens", "x", "--batch", "1", "--out", "y"},
                                     {"config"},
                                     {"--data", "x"},
                                     {config},
                                     {config},
                                     {}};
  for (size_t i = 0; i < commands().size(); ++i) {
    const Ran ran = run_sffn(commands()[i] + needed[i] + Words{"--no-such-option"});
    INFO(commands()[i].back() << ": " << ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line("--no-such-option"));
  }
  for (const Words& wrong : {Words{}, Words{"bench"}, Words{"no-such-command"}}) {
    const Ran ran = run_sffn(wrong);
    INFO(ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line("--help"));
  }
  for (const Words& wrong : {Words{"no-such-command"}, Words{"bench", "no-such-command"}}) {
    CHECK(run_sffn(wrong).one_error_line("no-such-command is not a command"));
  }
  for (const char* number : {"0", "-1", "x"}) {
    CHECK(run_sffn({"train", config, "--steps", number})
              .one_error_line(cat("--steps: is ", number, "; a number above 0")));
  }
}

// Kills: a configuration for a GPU that a build without one can neither plan nor run on the CPU.
TEST_CASE("a configuration for a GPU is planned without one, and runs on the backend that is asked for", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Words gpu = {write_model(folder), "--set", "backend=cuda"};
  CHECK(run_sffn(Words{"plan"} + gpu).code == 0);
  CHECK(run_sffn(Words{"bench", "step"} + gpu + Words{"--backend", "cpu", "--steps", "1"}).code == 0);
  if constexpr (!kHasCuda) {
    const Ran ran = run_sffn(Words{"bench", "step"} + gpu);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line("use cpu"));
  }
}

// Kills: output that a full disk swallowed and exit code 0.
TEST_CASE("what cannot be printed is an error", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string command = std::string(SFFN_BINARY) + " plan " + write_model(folder) + " > /dev/full 2> /dev/null";
  CHECK(WEXITSTATUS(std::system(command.c_str())) == 1);
}

// Kills: a log line among the JSON, two values, a warning on success.
TEST_CASE("with --json, stdout is one JSON object and stderr is empty", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string config = write_model(folder);
  for (const char* topic : {"config", "methods", "dense"})
    check_one_json_object(run_sffn({"describe", topic, "--json"}));
  check_one_json_object(run_sffn({"plan", config, "--json"}));
  check_one_json_object(run_sffn({"bench", "ops", config, "--json", "--seconds", "0.001"}));
  check_one_json_object(run_sffn({"bench", "step", config, "--json", "--steps", "1"}));
  check_one_json_object(run_sffn({"bench", "comm", "--json"}));
  write_shard(folder / "x.bin", {1, 2, 3});
  check_one_json_object(run_sffn({"verify", "--json", "--data", folder / "x.bin"}));
}

// Kills: a generated file that was not generated again.
TEST_CASE("configs/README.md is what describe prints", "[tools]") {
  const Ran ran = sffn_done({"describe", "config", "--markdown"});
  CHECK(ran.out == read_text(SFFN_SOURCE_DIR "/configs/README.md"));
}

// Kills: a method that is registered and not described.
TEST_CASE("describe knows every method by its name", "[tools]") {
  const Json report = sffn_done({"describe", "methods", "--json"}).json(), methods = *report.find("methods");
  REQUIRE(!methods.as_array().empty());
  const Ran table = sffn_done({"describe", "methods"});
  for (const Json& method : methods.as_array()) {
    const std::string name = method.find("type")->as_string();
    CHECK(sffn_done({"describe", name, "--json"}).json() == method);
    CHECK(table.out.find(name) != std::string::npos);
    CHECK(method.find("example")->find("type")->as_string() == name);
  }
  const Ran unknown = run_sffn({"describe", "dens"});
  CHECK(unknown.code == 2);
  CHECK(unknown.one_error_line("dense"));
}

// Kills: damage that is seen and answered with 0, a fault without its file.
TEST_CASE("verify says good, or names the damaged file with exit code 3", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string data = prepare_words(folder, "a", 12);
  sffn_done(train_command(write_model(folder), data, folder / "run"));
  const std::string step = folder / "run/checkpoints/step-00000002", shard = data + "/train-000000.bin";
  CHECK(sffn_done({"verify", "--checkpoint", step, "--data", data + "/*.bin"}).out == "good\n");
  for (const std::string& file : {step + "/model.safetensors", shard}) {
    const std::string whole = read_text(file);
    std::string damaged = whole;
    damaged[damaged.size() - 3] = static_cast<char>(damaged[damaged.size() - 3] ^ 4);
    write_text(file, damaged);
    const Ran ran = run_sffn({"verify", "--checkpoint", step, "--data", data + "/*.bin", "--json"});
    CHECK(ran.code == 3);
    CHECK(ran.err.empty());
    const Json report = ran.json();
    CHECK(!report.find("good")->as_bool());
    REQUIRE(!report.find("faults")->as_array().empty());
    for (const Json& fault : report.find("faults")->as_array())
      CHECK(fault.as_string().find(file) != std::string::npos);
    write_text(file, whole);
  }
  const Ran nothing = run_sffn({"verify"});
  CHECK(nothing.code == 2);
  CHECK(nothing.one_error_line("--checkpoint DIR"));
}

// Kills: a key of the contract renamed, medians of another unit.
TEST_CASE("bench step reports the parts of a step", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Words command = {"bench", "step", write_model(folder), "--json", "--steps", "3"};
  for (const int ranks : {0, 2}) {
    const Json report = sffn_done(command, ranks).json();
    CHECK(has_keys(report,
                   {"tokens_per_second", "step_ms", "forward_backward_ms", "optimizer_ms", "exposed_communication_ms",
                    "least_communication_ms", "rates", "memory_bytes", "model_tflops"}));
    const double tokens = 32.0 * std::max(1, ranks);  // one micro-batch a rank
    CHECK(number(report, "tokens_per_second") == Approx(1e3 * tokens / number(report, "step_ms")));
    CHECK(number(report, "forward_backward_ms") > 0);
    CHECK(number(report, "forward_backward_ms") <= 2 * number(report, "step_ms"));
    CHECK(report.find("mfu")->is_null());  // a CPU has no peak that is known
    CHECK(report.find("device")->as_string() == "cpu");
  }
  const Ran profile = run_sffn(command + Words{"--profile"});
  CHECK(profile.code == 2);
  CHECK(profile.one_error_line("--backend cuda"));
  const Ran none = run_sffn(command + Words{"--set", "model.vocab_size=from_data"});
  CHECK(none.code == 2);
  CHECK(none.one_error_line("--set model.vocab_size=N"));
}

// Kills: a sum of other products than the step's, a unit.
TEST_CASE("bench ops adds up the matrix products of a micro-batch", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Json report = sffn_done({"bench", "ops", write_model(folder), "--json", "--seconds", "0.001"}).json();
  double ms = 0, flops = 0;
  for (const Json& row : report.find("matmul")->as_array()) {
    const double count = number(row, "count");
    ms += count * number(row, "ms");
    flops += count * 2 * number(row, "M") * number(row, "N") * number(row, "K");
  }
  CHECK(number(report, "gemm_bound_ms") == Approx(ms));
  CHECK(number(report, "gemm_flops") == Approx(flops));
  CHECK(!report.find("ops")->as_array().empty());
}

// Kills: a group without rows, a row of another unit or of no shape, an error that is not looked at.
TEST_CASE("bench ops times the groups of reference shapes, on a CPU as well", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Words command = {"bench",     "ops", write_model(folder), "--json", "--small",
                         "--repeats", "1",   "--seconds",         "0.001"};
  const Json report = sffn_done(command + Words{"--group", "A", "--group", "B", "--group", "C", "--group", "D"}).json();
  std::map<std::string, int> rows;
  for (const Json::Member& group : report.find("groups")->as_object()) {
    for (const Json& row : group.value.as_array()) {
      const std::string name = row.find("name")->as_string();
      INFO(group.key << " " << name);
      ++rows[name];
      CHECK(!row.find("shape")->as_string().empty());
      CHECK(number(row, "ms") > 0);
      CHECK(row.find("of_roofline")->is_null());
      const Json &bytes = *row.find("gb_per_s"), &flops = *row.find("tflops");
      CHECK((bytes.is_number() || flops.is_number()));
      if (!name.starts_with("sffn_")) continue;
      CHECK(number(row, "error") < 0.01);  // bf16
      CHECK(number(row, "error") > 1e-4);
    }
  }
  for (const char* name : {"copy", "matmul", "attention_backward", "adamw", "dense_ffn_forward_backward",
                           "sffn_forward_grouped", "sffn_forward_backward_masked"}) {
    INFO(name);
    CHECK(rows[name] > 0);
  }
  const Ran unknown = run_sffn(command + Words{"--group", "E"});
  CHECK(unknown.code == 2);
  CHECK(unknown.one_error_line("A, B, C, D"));
  const Ran uneven = run_sffn(command + Words{"--group", "D", "--block-size", "7"});
  CHECK(uneven.code == 2);
  CHECK(uneven.one_error_line("64 cells"));
}

// Kills: collectives that a rank does not join.
TEST_CASE("bench comm times the collectives of a step between ranks", "[tools]") {
  const Json report = sffn_done({"bench", "comm", "--json"}, 2).json();
  std::map<std::string, double> largest;
  for (const Json& row : report.find("collectives")->as_array()) {
    CHECK(number(row, "ms") > 0);
    CHECK(number(row, "gigabytes_per_second") > 0);
    largest[row.find("collective")->as_string()] = number(row, "bytes");
  }
  CHECK(largest.size() == 3);
  for (const auto& [name, bytes] : largest) CHECK(bytes == 4.0 * (1 << 23));  // half of 16 Mi floats
}
