#include "core/safetensors.h"
#include "tools/tool_run.h"

#include <cmath>
#include <numbers>
#include <sstream>

using namespace sffn;
using namespace sffn::test;

namespace {

// A run of a few steps on documents "a", and held-out documents "a" and "b" in shards of at most 300 tokens.
struct Trained {
  TempFolder folder{TempFolder::kMemory};
  std::string a = prepare_words(folder, "a", 24, {"--val-fraction", "0.4", "--shard-tokens", "700"});
  std::string b = prepare_words(folder, "b", 10);
  std::string run = folder / "run";

  explicit Trained(const Words& more = {}) {
    const Words sets = {"--set", "data.validation.a=" + a + "/val-*.bin"};
    sffn_done(train_command(write_model(folder), a, run) + sets + more);
  }
  Words eval(const Words& more) const { return Words{"eval", "--checkpoint", run, "--json"} + more; }
  Words both() const { return {"--data", "a=" + a + "/val-*.bin", "--data", "b=" + b + "/val-*.bin"}; }
};

std::vector<std::string> shards_of(const std::string& folder, const std::string& side) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().rfind(side + "-", 0) == 0) paths.push_back(entry.path().string());
  }
  return paths;
}

const Json& set_of(const Json& report, const std::string& name) {
  const Json* set = report.find("sets")->find(name);
  REQUIRE(set != nullptr);
  return *set;
}

double nll_of(const Ran& ran, const std::string& set) { return number(set_of(ran.json(), set), "nll"); }

// Σ -log p of the last `scored` targets of every row, from the logits that probe writes.
double probed_nll(const Trained& trained, const std::vector<std::vector<int>>& rows, const std::vector<int>& scored) {
  double sum = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    // The loss of a row is a mean over all its targets; those before the scored ones are a shorter row's.
    const auto total = [&](size_t targets) {
      if (targets == 0) return 0.0;
      write_ids(trained.folder / "ids", {rows[row].begin(), rows[row].begin() + static_cast<long>(targets) + 1});
      sffn_done({"probe", "--checkpoint", trained.run, "--tokens", trained.folder / "ids", "--batch", "1", "--out",
                 trained.folder / "probe"});
      const SafetensorsFile file(trained.folder / "probe");
      const float loss = file.read_all<float>(*file.find("loss"))[0];
      return static_cast<double>(loss) * static_cast<double>(targets);
    };
    const size_t targets = rows[row].size() - 1;
    sum += total(targets) - total(targets - static_cast<size_t>(scored[row]));
  }
  return sum;
}

}  // namespace

// Kills: batches that depend on the number of ranks, sums in the order of arrival, every rank printing.
TEST_CASE("eval prints the same JSON on 1 and 4 ranks", "[tools]") {
  const Trained trained;
  const Words command = trained.eval(trained.both() + Words{"--stride", "5", "--batch", "3"});
  const Ran one = sffn_done(command), four = sffn_done(command, 4);
  CHECK(one.out == four.out);
  CHECK(one.err.empty());
  CHECK(four.err.empty());
}

// Kills: a shard's first token scored, windows that overlap scored twice, a formula of the means mixed up.
TEST_CASE("eval scores every token but a shard's first once, for any stride", "[tools]") {
  const Trained trained;
  for (const char* stride : {"1", "7", "16"}) {
    const Ran ran = sffn_done(trained.eval(trained.both() + Words{"--stride", stride, "--out", trained.folder / "r"}));
    const Json report = ran.json();
    CHECK(parse_json(read_text(trained.folder / "r"), "r", ExitCode::kRunFailed) == report);
    CHECK(report.find("stride")->as_int() == std::stoi(stride));
    double perplexities = 0, nll = 0, tokens = 0;
    for (const std::string name : {"a", "b"}) {
      int64_t scored = 0, bytes = 0;
      for (const std::string& path : shards_of(trained.folder / name, "val")) {
        const std::vector<int> ids = read_shard(path);
        for (size_t i = 1; i < ids.size(); ++i) ++scored, bytes += ids[i] < 256;
      }
      const Json& set = set_of(report, name);
      CHECK(set.find("tokens")->as_int() == scored);
      CHECK(set.find("bytes")->as_int() == bytes);
      const double total = number(set, "nll") * static_cast<double>(scored);
      CHECK(number(set, "bits_per_byte") == Approx(total / (std::numbers::ln2 * static_cast<double>(bytes))));
      CHECK(number(set, "perplexity") == Approx(std::exp(number(set, "nll"))));
      perplexities += number(set, "perplexity");
      nll += total;
      tokens += static_cast<double>(scored);
    }
    CHECK(number(report, "macro_perplexity") == Approx(perplexities / 2));
    CHECK(number(report, "micro_perplexity") == Approx(std::exp(nll / tokens)));
  }
  CHECK(shards_of(trained.a, "val").size() > 1);
}

// Kills: windows that begin at the wrong token, another part of them scored than the last `stride` targets.
TEST_CASE("windows score what probe gives for the same tokens", "[tools]") {
  const Trained trained;
  const std::vector<int> ids = arbitrary_ids(33, 257);
  write_shard(trained.folder / "x.bin", ids);
  const Words data = {"--data", "x=" + trained.folder / "x.bin"};
  const auto row = [&](int begin, int targets) {
    return std::vector<int>(ids.begin() + begin, ids.begin() + begin + targets + 1);
  };
  const Ran whole = sffn_done(trained.eval(data));
  CHECK(nll_of(whole, "x") * 32 == Approx(probed_nll(trained, {row(0, 16), row(16, 16)}, {16, 16})).epsilon(1e-6));
  CHECK(set_of(whole.json(), "x").find("bytes")->is_null());
  CHECK(set_of(whole.json(), "x").find("bits_per_byte")->is_null());
  const Ran half = sffn_done(trained.eval(data + Words{"--stride", "12"}));
  const double expected = probed_nll(trained, {row(0, 16), row(12, 16), row(24, 8)}, {16, 12, 4});
  CHECK(nll_of(half, "x") * 32 == Approx(expected).epsilon(1e-6));
}

// Kills: a mask that only attention or only positions follow: a window that begins inside a document would tell.
TEST_CASE("with a document mask, a document's score does not depend on the window it lies in", "[tools]") {
  for (const bool mask : {false, true}) {
    const Trained trained({"--set", mask ? "data.document_mask=true" : "data.document_mask=false"});
    const std::string text = trained.folder / "same-text";
    std::filesystem::create_directories(text);
    for (char c = 'a'; c < 'q'; ++c)
      write_text(text + "/" + c + ".txt", std::string("fifteen letters").replace(3, 1, 1, c));
    sffn_done({"prepare", "--input", text, "--out", trained.folder / "same"});
    const Words data = {"--data", "s=" + trained.folder / "same/train-*.bin"};
    const double aligned = nll_of(sffn_done(trained.eval(data)), "s");
    const double across = nll_of(sffn_done(trained.eval(data + Words{"--stride", "8"})), "s");
    INFO((mask ? "masked" : "not masked"));
    CHECK((std::abs(aligned - across) < 1e-6 * aligned) == mask);
  }
}

// Kills: an evaluation in training mode, other weights than those that the run evaluated, a stale best step.
TEST_CASE("eval agrees with the trainer's own evaluation, from the run's folder and the step's", "[tools]") {
  const Trained trained({"--set", "model.dropout=0.2"});
  double logged = 0;
  std::istringstream lines(read_text(trained.run + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json record = parse_json(line, "metrics", ExitCode::kRunFailed);
    if (const Json* eval = record.find("eval")) logged = number(*eval->find("a"), "nll");
  }
  const Words data = {"--data", "a=" + trained.a + "/val-*.bin", "--batch", "2"};
  const Ran from_run = sffn_done(trained.eval(data));
  CHECK(nll_of(from_run, "a") == logged);
  const std::string step = trained.run + "/checkpoints/step-00000002";
  CHECK(nll_of(sffn_done(Words{"eval", "--json", "--checkpoint", step} + data), "a") == logged);
  const double first = nll_of(
      sffn_done(Words{"eval", "--json", "--checkpoint", trained.run + "/checkpoints/step-00000000"} + data), "a");
  CHECK(first > logged);
}

// Kills: tokens that only fill a window or a batch up.
TEST_CASE("eval counts the choices of the tokens that it scores, and no others", "[tools]") {
  const Trained trained({"--set", R"(model.sparse_ffn=[{"layers": "all", "type": "switch", "block_size": 8, "cells": 64,
                                                       "active_cells": 16}])"});
  const std::string usage = trained.folder / "usage.json";
  for (const char* batch : {"1", "3", "64"}) {
    const Ran ran = sffn_done(trained.eval(trained.both() + Words{"--usage", usage, "--batch", batch}));
    const Json counted = parse_json(read_text(usage), usage, ExitCode::kRunFailed);
    for (const char* set : {"a", "b"}) {
      INFO("set " << set << ", batch " << batch);
      double choices = 0;
      for (const Json& block : counted.find(set)->find("0")->find("load")->as_array()) choices += block.as_double();
      CHECK(choices == 2 * number(set_of(ran.json(), set), "tokens"));
    }
  }
}

// Kills: exit codes that lump bad usage and missing data together, a context that reads beyond the position table.
TEST_CASE("eval names what is wrong in one line with the exit code of its kind", "[tools]") {
  const Trained trained;
  const Words good = {"--data", "a=" + trained.a + "/val-*.bin"};
  const auto expect = [&](const Words& arguments, int code, const std::string& part) {
    const Ran ran = run_sffn(arguments);
    INFO(ran.err);
    CHECK(ran.code == code);
    CHECK(ran.one_error_line(part));
  };
  expect(trained.eval({"--data", "a=" + trained.a + "/absent-*.bin"}), 3, "absent-*.bin");
  expect(Words{"eval", "--json", "--checkpoint", trained.folder / "absent"} + good, 3, "absent");
  for (const char* bad : {"a", "=x", "a="}) expect(trained.eval({"--data", bad}), 2, "NAME=GLOB");
  expect(trained.eval(good + good), 2, "twice");
  expect(trained.eval(good + Words{"--context", "17"}), 2, "17 is beyond the 16 positions");
  expect(trained.eval(good + Words{"--stride", "17"}), 2, "above the context");
  expect(trained.eval(good + Words{"--backend", "cuda"}), 2, "cuda");
  write_shard(trained.folder / "x.bin", {1, 2, 257, 3});
  expect(trained.eval({"--data", "x=" + trained.folder / "x.bin"}), 3, "257");
}

// Kills: ids read as those of another tokenizer, which gives numbers that mean nothing.
TEST_CASE("data of another tokenizer is refused by eval, validation and a resume", "[tools]") {
  const Words vocabulary = {"--set", "model.vocab_size=300"};
  const Trained trained(vocabulary);
  const std::string other =
      prepare_words(trained.folder, "other", 24, {"--val-fraction", "0.4", "--tokenizer", "spm-train:300"});
  const auto refused = [&](const Words& arguments, const std::string& part) {
    const Ran ran = run_sffn(arguments);
    INFO(ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.err.find(part) != std::string::npos);
  };
  refused(trained.eval({"--data", "x=" + other + "/val-*.bin"}), "was made with tokenizer spm");
  const std::string config = trained.folder / "model.json";
  refused(train_command(config, other, trained.run) + vocabulary + Words{"--steps", "4"},
          "was made with tokenizer spm");
  refused(train_command(config, trained.a, trained.folder / "new") + vocabulary +
              Words{"--set", "data.validation.x=" + other + "/val-*.bin"},
          "need one tokenizer");
}

// Kills: a warning on stderr beside JSON, one that is lost, one that an error hides.
TEST_CASE("with --json a warning is in the JSON, and on stderr where eval fails", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string data = prepare_words(folder, "a", 24, {"--val-fraction", "0.4", "--tokenizer", "spm-train:300"});
  const std::string run = folder / "run";
  sffn_done(train_command(write_model(folder), data, run) + Words{"--set", "model.vocab_size=300"});
  std::filesystem::remove(data + "/tokenizer.model");
  const std::string set = "x=" + data + "/val-*.bin";
  const Words eval = {"eval", "--checkpoint", run, "--data", set}, json = {"--json"};

  const Ran quiet = sffn_done(eval + json);
  CHECK(quiet.err.empty());
  const Json report = quiet.json(), *warnings = report.find("warnings");
  REQUIRE(warnings != nullptr);
  REQUIRE(warnings->as_array().size() == 1);
  CHECK(warnings->as_array()[0].as_string().find("tokenizer.model: is missing") != std::string::npos);
  CHECK(set_of(report, "x").find("bits_per_byte")->is_null());

  CHECK(sffn_done(eval).err.find("warning: ") == 0);
  const Ran failed = run_sffn(eval + json + Words{"--data", set});
  CHECK(failed.code == 2);
  CHECK(failed.err.find("warning: ") == 0);
  CHECK(failed.err.find("\nerror: --data x=") != std::string::npos);
}

// Kills: a table a rank.
TEST_CASE("eval under mpirun prints its table once", "[tools]") {
  const Trained trained;
  const Ran ran = sffn_done(Words{"eval", "--checkpoint", trained.run} + trained.both(), 2);
  const size_t first = ran.out.find("perplexity");
  REQUIRE(first != std::string::npos);
  CHECK(ran.out.find("macro perplexity") == ran.out.rfind("macro perplexity"));
}
