// Evaluation of a set over ranks, with a score that is a function of the tokens.
#include "train/evaluate.h"

#include "comm/threads.h"
#include "core/random.h"
#include "support/catch.h"
#include "support/temp_folder.h"

#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

// 16-bit ids without a manifest.
std::string write_tokens(const TempFolder& folder, int64_t count) {
  std::string bytes(1024, '\0');
  const auto put = [&](size_t word, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes[4 * word + i] = static_cast<char>(value >> 8 * i);
  };
  put(0, 20240520);
  put(1, 1);
  put(2, static_cast<uint32_t>(count));
  for (int64_t i = 0; i < count; ++i) bytes += {static_cast<char>(i % 97), '\0'};
  write_text(folder / "x.bin", bytes);
  return folder / "x.bin";
}

// Values whose sum depends on the order of the additions.
std::vector<float> score(const Batch& batch) {
  std::vector<float> nll(batch.targets.size());
  for (size_t i = 0; i < nll.size(); ++i) {
    const auto key = static_cast<uint64_t>(batch.inputs[i] * 97 + batch.targets[i]);
    if (batch.targets[i] >= 0) nll[i] = static_cast<float>(std::exp(10 * random_uniform({3, 4}, key)));
  }
  return nll;
}

EvalSource source_of(const std::string& path) {
  EvalOptions options;
  options.context = 7;
  options.stride = 3;
  options.vocab_size = 97;
  return EvalSource(path, options);
}

}  // namespace

// Kills: sums per rank, batches cut by the number of ranks, a last round that some ranks leave out.
TEST_CASE("the result of an evaluation is the same, bit for bit, on any number of ranks", "[evaluate]") {
  const TempFolder folder(TempFolder::kMemory);
  const EvalSource source = source_of(write_tokens(folder, 200));
  const auto on = [&](int ranks, int64_t batch) {
    std::vector<EvaluationResult> results(static_cast<size_t>(ranks));
    run_threads(ranks, [&](Communicator& comm) {
      const auto go_on = [](int64_t, int64_t) { return true; };
      CHECK(evaluate_set(source, batch, comm, score, go_on, results[static_cast<size_t>(comm.rank())]));
    });
    for (const EvaluationResult& result : results) CHECK(result.nll == results[0].nll);
    return results[0];
  };
  for (const int64_t batch : {1, 4, 1000}) {
    const EvaluationResult one = on(1, batch);
    CHECK(one.tokens == 199);
    CHECK(one.perplexity == std::exp(one.nll));
    CHECK(!one.bytes);
    CHECK(!one.bits_per_byte);
    for (const int ranks : {2, 3, 4, 8}) CHECK(on(ranks, batch).nll == one.nll);
    CHECK(one.nll == Approx(on(1, 3).nll).epsilon(1e-12));
  }
}

// Kills: a rank that stops alone and leaves the others waiting, a result from part of a set.
TEST_CASE("an evaluation that one rank ends is ended on all", "[evaluate]") {
  const TempFolder folder(TempFolder::kMemory);
  const EvalSource source = source_of(write_tokens(folder, 200));
  run_threads(3, [&](Communicator& comm) {
    EvaluationResult result;
    const auto stop = [&](int64_t done, int64_t) { return comm.rank() != 1 || done < 6; };
    CHECK(!evaluate_set(source, 2, comm, score, stop, result));
    CHECK(result.tokens == 0);
  });
}

// Kills: a macro mean over tokens, a micro mean over sets.
TEST_CASE("macro is the mean of perplexities, micro that of tokens", "[evaluate]") {
  const auto result = [](double nll, int64_t tokens) {
    EvaluationResult r;
    r.nll = nll;
    r.perplexity = std::exp(nll);
    r.tokens = tokens;
    return r;
  };
  const std::map<std::string, EvaluationResult> sets{{"a", result(std::log(2.0), 100)},
                                                     {"b", result(std::log(8.0), 300)}};
  CHECK(macro_perplexity(sets) == Approx(5));
  CHECK(micro_perplexity(sets) == Approx(std::exp2(2.5)));
}
