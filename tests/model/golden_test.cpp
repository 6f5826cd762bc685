// Whole models against files that scripts/make_golden.py wrote with PyTorch in float64.
#include "config/config.h"
#include "core/safetensors.h"
#include "model/model_run.h"
#include "support/paths.h"

#include <filesystem>

using namespace sffn;
using namespace sffn::test;

namespace {

std::vector<std::string> golden_files() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(SFFN_SOURCE_DIR "/tests/golden")) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

const SafetensorsEntry& entry_of(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  INFO(name);
  REQUIRE(entry != nullptr);
  return *entry;
}

std::vector<double> values_of(const SafetensorsFile& file, const std::string& name) {
  const std::vector<float> values = file.read_all<float>(entry_of(file, name));
  return {values.begin(), values.end()};
}

Batch batch_of(const SafetensorsFile& file) {
  const std::vector<int64_t>& shape = entry_of(file, "inputs").shape;
  const auto ids = [&](const char* name) { return file.read_all<int32_t>(entry_of(file, name)); };
  Batch batch{.batch = shape[0],
              .time = shape[1],
              .inputs = ids("inputs"),
              .targets = ids("targets"),
              .positions = ids("positions"),
              .segment_start = {}};
  if (file.find("segment_start") != nullptr) batch.segment_start = ids("segment_start");
  return batch;
}

Config config_of(const SafetensorsFile& file, const Batch& batch, Precision precision) {
  Config config = parse_config(parse_json(file.metadata().at("config"), file.path(), ExitCode::kUsage), file.path());
  config.train.precision = precision;
  config.data.document_mask = !batch.segment_start.empty();
  return config;
}

void check_golden(const std::string& path, Precision precision, double tolerance) {
  INFO(path);
  const SafetensorsFile file(path);
  const Batch batch = batch_of(file);
  ModelRun run(config_of(file, batch, precision), batch.batch, batch.time);
  ParamStore& params = run.model().params();
  size_t gradients = 0;
  for (const SafetensorsEntry& entry : file.entries()) gradients += entry.name.rfind("grad.", 0) == 0;
  CHECK(gradients == params.all().size());
  for (Param& param : params.all()) {
    write_values(run.stream(), param.value.slice(0, param.spec.shape[0]), values_of(file, param.spec.name));
  }
  Inspection seen;
  seen.logits = seen.hidden = true;
  const int64_t scored = run.evaluate(batch).tokens;
  const LossSum loss = run.forward_backward(batch, 1.0 / static_cast<double>(scored), &seen);
  CHECK(loss.nll / static_cast<double>(loss.tokens) == Approx(values_of(file, "loss")[0]).epsilon(tolerance));
  CHECK(relative_distance(seen.logits_out, values_of(file, "logits")) < tolerance);
  for (size_t layer = 0; layer < seen.hidden_out.size(); ++layer) {
    CHECK(relative_distance(seen.hidden_out[layer], values_of(file, cat("hidden.", layer))) < tolerance);
  }
  for (const Param& param : params.all()) {
    INFO(param.spec.name);
    CHECK(relative_distance(run.gradient(param), values_of(file, "grad." + param.spec.name)) < tolerance);
  }
}

}  // namespace

// Kills: an equation that the whole program has wrong in the same way, forward, backward and reference: an epsilon, a
// scale, a rotary pairing, the order of heads, grouped heads read by the wrong queries, the tanh form of gelu.
TEST_CASE("models are those that PyTorch computes from the same equations", "[model]") {
  const std::vector<std::string> files = golden_files();
  REQUIRE(files.size() == 5);
  for (const std::string& path : files) {
    check_golden(path, Precision::kFp64, 2e-7);
    check_golden(path, Precision::kFp32, 1e-5);
  }
}
