#include "model/model_run.h"

using namespace sffn;
using namespace sffn::test;

namespace {

// Logits after every token, [B, T, V], fed `pieces` at a time.
std::vector<std::vector<float>> decoded(ModelRun& run, const Config& config, const Batch& batch,
                                        const std::vector<int64_t>& pieces) {
  KeyValueCache cache(cpu_runtime(), config, batch.batch, 9);
  std::vector<std::vector<float>> logits;
  int64_t first = 0;
  for (const int64_t count : pieces) {
    std::vector<int32_t> tokens;
    for (int64_t b = 0; b < batch.batch; ++b) {
      const auto begin = batch.inputs.begin() + b * batch.time + first;
      tokens.insert(tokens.end(), begin, begin + count);
    }
    Context ctx = run.context();
    logits.push_back(run.model().decode(ctx, cache, tokens));
    first += count;
    CHECK(cache.length() == first);
  }
  return logits;
}

}  // namespace

// Kills: positions that start anew with every token, a cache shared by layers, a branch added twice.
TEST_CASE("tokens decoded one by one get the logits of the whole sequence", "[model]") {
  for (const auto& [name, config] : tiny_models()) {
    INFO(name);
    ModelRun run(config);
    const Batch batch = random_batch(3, 7, 29);
    Inspection whole;
    whole.logits = true;
    run.evaluate(batch, nullptr, &whole);
    const std::vector<int64_t> pieces = {4, 1, 1, 1};
    const auto logits = decoded(run, config, batch, pieces);
    int64_t last = -1;
    for (size_t piece = 0; piece < pieces.size(); ++piece) {
      last += pieces[piece];
      std::vector<double> expected, found(logits[piece].begin(), logits[piece].end());
      for (int64_t b = 0; b < 3; ++b) {
        const auto row = whole.logits_out.begin() + (b * 7 + last) * 29;
        expected.insert(expected.end(), row, row + 29);
      }
      CHECK(relative_distance(found, expected) < 1e-6);
    }
  }
}

// Kills: arenas of an evaluation that are too small for decoding.
TEST_CASE("arenas planned for an evaluation serve decoding", "[model]") {
  for (const auto& [name, base] : tiny_models()) {
    INFO(name);
    const Config config = in_precision(base, Precision::kBf16);
    ModelRun run(config);
    const PassPlan plan = measure_memory(config, 3, 4).evaluate;
    Arena saved(cpu_runtime(), "saved", plan.saved), scratch(cpu_runtime(), "scratch", plan.scratch);
    Context ctx{.stream = run.stream(), .saved = saved, .scratch = scratch, .parallel = {}};
    KeyValueCache cache(cpu_runtime(), config, 3, 5);
    CHECK(run.model().decode(ctx, cache, std::vector<int32_t>(12, 1)).size() == 3 * 29);
    CHECK(run.model().decode(ctx, cache, {1, 2, 3}).size() == 3 * 29);
    CHECK_THROWS_AS(run.model().decode(ctx, cache, {1, 2, 3}), RunError);
  }
}
