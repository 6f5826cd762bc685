#include "core/safetensors.h"
#include "model/transformer.h"
#include "tools/tool_run.h"
#include "train/checkpoint/checkpoint.h"

#include <cmath>
#include <map>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr int kBatch = 3, kTime = 9, kVocab = 257, kWidth = 16;

struct Probe {
  TempFolder folder{TempFolder::kMemory};
  std::string config = write_model(folder), ids = folder / "ids";

  Probe() { write_ids(ids, arbitrary_ids(kBatch * (kTime + 1), kVocab)); }
  Ran run(const std::string& out, const Words& more = {}) const {
    return run_sffn(Words{"probe", "--tokens", ids, "--batch", std::to_string(kBatch), "--out", folder / out} + more);
  }
  SafetensorsFile done(const std::string& out, const Words& more) const {
    const Ran ran = run(out, more);
    INFO(ran.err);
    REQUIRE(ran.code == 0);
    return SafetensorsFile(folder / out);
  }
};

std::vector<double> values(const SafetensorsFile& file, const std::string& name) {
  INFO(name);
  REQUIRE(file.find(name) != nullptr);
  const std::vector<float> all = file.read_all<float>(*file.find(name));
  return {all.begin(), all.end()};
}

double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  return std::sqrt(difference / norm);
}

// Mean of logsumexp(row) - row[target].
double cross_entropy(const std::vector<double>& logits, const std::vector<int>& targets, size_t vocab) {
  double sum = 0;
  for (size_t n = 0; n < targets.size(); ++n) {
    double exponentials = 0;
    for (size_t v = 0; v < vocab; ++v) exponentials += std::exp(logits[n * vocab + v]);
    sum += std::log(exponentials) - logits[n * vocab + static_cast<size_t>(targets[n])];
  }
  return sum / static_cast<double>(targets.size());
}

}  // namespace

// Kills: a name, shape or dtype of the contract; padded rows written out; targets that are not the next ids.
TEST_CASE("a probe holds loss, logits, hidden states and every gradient, without padding", "[tools]") {
  const Probe probe;
  const SafetensorsFile file = probe.done("p", {probe.config});
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const SafetensorsEntry& entry : file.entries()) {
    CHECK(entry.dtype == "F32");
    shapes[entry.name] = entry.shape;
  }
  CHECK(shapes.at("loss").empty());
  CHECK(shapes.at("extra_loss").empty());
  CHECK(shapes.at("logits") == std::vector<int64_t>{kBatch, kTime, kVocab});
  CHECK(shapes.at("hidden.0") == std::vector<int64_t>{kBatch, kTime, kWidth});
  Transformer model(load_config(probe.config, {}));
  size_t others = 4;
  for (const Param& param : model.params().all()) {
    INFO(param.spec.name);
    const std::vector<int64_t>& shape = shapes.at("grad." + param.spec.name);
    REQUIRE(static_cast<int>(shape.size()) == param.spec.shape.rank());
    for (size_t i = 0; i < shape.size(); ++i) CHECK(shape[i] == param.spec.shape[static_cast<int>(i)]);
    ++others;
  }
  CHECK(shapes.size() == others);

  const std::vector<int> ids = arbitrary_ids(kBatch * (kTime + 1), kVocab);
  std::vector<int> targets;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i % (kTime + 1) != 0) targets.push_back(ids[i]);
  }
  CHECK(values(file, "loss")[0] == Approx(cross_entropy(values(file, "logits"), targets, kVocab)).epsilon(1e-6));
  CHECK(values(file, "extra_loss")[0] == 0);
}

// Kills: weights that --save writes differently from those probed, numbers that change from call to call.
TEST_CASE("saved weights probe to the same file, bit for bit", "[tools]") {
  for (const char* precision : {"fp32", "bf16"}) {
    const Probe probe;
    const Words config = {probe.config, "--set", std::string("train.precision=") + precision};
    probe.done("first", config + Words{"--save", probe.folder / "weights"});
    probe.done("again", config);
    probe.done("saved", {"--checkpoint", probe.folder / "weights"});
    CHECK(read_text(probe.folder / "first") == read_text(probe.folder / "again"));
    CHECK(read_text(probe.folder / "first") == read_text(probe.folder / "saved"));
    CHECK(run_sffn({"verify", "--checkpoint", probe.folder / "weights"}).code == 0);
    probe.done("other", config + Words{"--set", "train.seed=2"});
    CHECK(read_text(probe.folder / "first") != read_text(probe.folder / "other"));
  }
}

// Kills: a folder of other things, or of a run's weights, that gives way to initial weights.
TEST_CASE("initial weights are saved where there is room for them alone", "[tools]") {
  const Probe probe;
  const auto save = [&](const std::string& folder) { return probe.run("out", {probe.config, "--save", folder}); };
  const std::string kept = probe.folder / "kept", empty = probe.folder / "empty";
  std::filesystem::create_directories(kept);
  std::filesystem::create_directories(empty);
  write_text(kept + "/x", "mine");
  write_text(probe.folder / "file", "mine");
  for (const std::string& taken : {kept, std::string(probe.folder / "file")}) {
    const Ran ran = save(taken);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line(taken));
  }
  CHECK(read_text(kept + "/x") == "mine");
  CHECK(read_text(probe.folder / "file") == "mine");
  CHECK(save(empty).code == 0);
  CHECK(save(empty).code == 0);
  CHECK(!exists(empty + ".damaged"));
}

// Kills: the whole door wrong in the same way from checkpoint to file: a transposed read, a gradient of another scale.
TEST_CASE("a checkpoint of PyTorch's weights probes to PyTorch's numbers", "[tools]") {
  for (const std::string name : {"gpt_learned", "gpt_sinusoidal_relu", "llama_grouped"}) {
    INFO(name);
    const SafetensorsFile golden(SFFN_SOURCE_DIR "/tests/golden/" + name + ".safetensors");
    const Config config = parse_config(parse_json(golden.metadata().at("config"), name, ExitCode::kUsage), name);
    const Probe probe;
    std::vector<std::vector<float>> weights, zeros;
    CheckpointContents contents;
    Transformer model(config);
    for (const Param& param : model.params().all()) {
      const int64_t count = param.spec.shape.numel();
      weights.push_back(golden.read_all<float>(*golden.find(param.spec.name)));
      zeros.emplace_back(static_cast<size_t>(count));
      contents.parameters.push_back({param.spec.name, param.spec.shape, 0, count, weights.back().data()});
      for (const char* moment : {"adam.m:", "adam.v:"}) {
        contents.moments.push_back({moment + param.spec.name, param.spec.shape, 0, count, zeros.back().data()});
      }
    }
    contents.config = to_json(config);
    contents.trainer["tokens"] = int64_t{0};
    write_checkpoint(*make_self_communicator(), probe.folder / "weights", 0, contents);

    const std::vector<int64_t> shape = golden.find("inputs")->shape;
    const auto inputs = golden.read_all<int32_t>(*golden.find("inputs"));
    const auto targets = golden.read_all<int32_t>(*golden.find("targets"));
    std::vector<int> rows;
    bool every_target = true, shifted = true;  // as rows of T + 1 ids can say it
    for (size_t row = 0, T = static_cast<size_t>(shape[1]); row < static_cast<size_t>(shape[0]); ++row) {
      for (size_t t = 0; t < T; ++t) {
        rows.push_back(inputs[row * T + t]);
        every_target = every_target && targets[row * T + t] >= 0;
        shifted = shifted && (t + 1 == T || targets[row * T + t] == inputs[row * T + t + 1]);
      }
      rows.push_back(std::max(0, targets[row * T + T - 1]));
    }
    write_ids(probe.ids, rows);
    const Ran ran = run_sffn({"probe", "--checkpoint", probe.folder / "weights", "--tokens", probe.ids, "--batch",
                              std::to_string(shape[0]), "--out", probe.folder / "p"});
    INFO(ran.err);
    REQUIRE(ran.code == 0);
    const SafetensorsFile file(probe.folder / "p");
    CHECK(relative_distance(values(file, "logits"), values(golden, "logits")) < 2e-5);
    for (int64_t layer = 0; layer < config.model.layers; ++layer) {
      const std::string hidden = "hidden." + std::to_string(layer);
      CHECK(relative_distance(values(file, hidden), values(golden, hidden)) < 2e-5);
    }
    if (!every_target || !shifted) continue;
    CHECK(values(file, "loss")[0] == Approx(values(golden, "loss")[0]).epsilon(1e-5));
    for (const Param& param : model.params().all()) {
      const std::string gradient = "grad." + param.spec.name;
      CHECK(relative_distance(values(file, gradient), values(golden, gradient)) < 2e-4);
    }
  }
}

// Kills: --training that is not read, dropout in the evaluation mode.
TEST_CASE("a probe is free of dropout unless it is asked to train", "[tools]") {
  const Probe probe;
  const Words dropout = {probe.config, "--set", "model.dropout=0.3"};
  const auto loss = [&](const Words& more) { return values(probe.done("p", more), "loss")[0]; };
  const double plain = loss({probe.config});
  CHECK(loss(dropout) == plain);
  const double training = loss(dropout + Words{"--training"});
  CHECK(training != plain);
  CHECK(loss(dropout + Words{"--training"}) == training);
  CHECK(loss({probe.config, "--training"}) == plain);
}

// Kills: a file read beyond its end, an id that indexes beyond the table.
TEST_CASE("probe names what is wrong with its input in one line", "[tools]") {
  const Probe probe;
  const auto expect = [&](const Words& more, int code, const std::string& part) {
    const Ran ran = probe.run("p", more);
    INFO(ran.err);
    CHECK(ran.code == code);
    CHECK(ran.one_error_line(part));
    CHECK(!std::filesystem::exists(probe.folder / "p"));
  };
  expect({}, 2, "--checkpoint");
  expect({probe.config, "--checkpoint", probe.folder / "x"}, 2, "either");
  expect({"--checkpoint", probe.folder / "x"}, 3, "/x");
  std::vector<int> ids = arbitrary_ids(kBatch * (kTime + 1), kVocab);
  ids[7] = kVocab;
  write_ids(probe.ids, ids);
  expect({probe.config}, 3, "offset 28");
  ids[7] = -1;
  write_ids(probe.ids, ids);
  expect({probe.config}, 3, "offset 28");
  for (const size_t wrong : {size_t{0}, size_t{1}, ids.size() - 1, size_t{3}, size_t{3 * 18}}) {
    write_ids(probe.ids, arbitrary_ids(wrong, kVocab));
    expect({probe.config}, 2, "int32 ids");
  }
  write_text(probe.ids, std::string(4 * 30 + 2, '\0'));
  expect({probe.config}, 2, "122 bytes");
  std::filesystem::remove(probe.ids);
  expect({probe.config}, 2, "ids");
}
