#include "train/evaluate.h"

#include "comm/tree.h"

#include <cmath>
#include <numbers>

namespace sffn {
namespace {

struct BatchSums {
  double nll = 0;
  int64_t tokens = 0, bytes = 0;
  bool bytes_known = true;
};

BatchSums score(const EvalSource& source, const Batch& batch, const TokenNll& token_nll) {
  BatchSums sums;
  for (const float nll : token_nll(batch)) sums.nll += nll;
  for (const int32_t target : batch.targets) sums.tokens += target >= 0;
  const std::optional<int64_t> bytes = source.scored_bytes(batch);
  sums.bytes = bytes.value_or(0);
  sums.bytes_known = bytes.has_value();
  return sums;
}

EvaluationResult fold(const std::vector<BatchSums>& batches) {
  EvaluationResult result;
  std::vector<double> nll;
  int64_t bytes = 0;
  bool bytes_known = true;
  for (const BatchSums& batch : batches) {
    nll.push_back(batch.nll);
    result.tokens += batch.tokens;
    bytes += batch.bytes;
    bytes_known = bytes_known && batch.bytes_known;
  }
  const double total = tree_sum(nll);
  result.nll = total / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.nll);
  if (bytes_known) result.bytes = bytes;
  if (bytes_known && bytes > 0) result.bits_per_byte = total / (std::numbers::ln2 * static_cast<double>(bytes));
  return result;
}

}  // namespace

bool evaluate_set(const EvalSource& source, int64_t batch, Communicator& comm, const TokenNll& token_nll,
                  const EvaluationProgress& progress, EvaluationResult& result, bool in_step) {
  const std::vector<EvalBatch> all = source.batches(batch);
  const int64_t batches = std::ssize(all), ranks = comm.size();
  std::vector<BatchSums> mine;
  for (int64_t round = 0; round * ranks < batches; ++round) {
    if (!comm.all_true(progress(round * ranks, batches))) return false;
    const int64_t index = round * ranks + comm.rank();
    if (index >= batches && !in_step) continue;
    const EvalBatch at = index < batches ? all[index] : EvalBatch();
    const BatchSums sums = score(source, source.batch(at, in_step ? batch : 0), token_nll);
    if (index < batches) mine.push_back(sums);
  }

  // Rank r holds the batches r, r + R, r + 2R, ...: put them in order, so that the sum is that of one rank.
  const std::vector<BatchSums> by_rank = comm.gather_lists(mine);
  std::vector<BatchSums> in_order(by_rank.size());
  size_t at = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int64_t index = rank; index < batches; index += ranks) in_order[index] = by_rank[at++];
  }
  result = fold(in_order);
  return true;
}

double macro_perplexity(const std::map<std::string, EvaluationResult>& sets) {
  double sum = 0;
  for (const auto& [name, result] : sets) sum += result.perplexity;
  return sum / static_cast<double>(sets.size());
}

double micro_perplexity(const std::map<std::string, EvaluationResult>& sets) {
  double nll = 0, tokens = 0;
  for (const auto& [name, result] : sets) {
    nll += result.nll * static_cast<double>(result.tokens);
    tokens += static_cast<double>(result.tokens);
  }
  return std::exp(nll / tokens);
}

}  // namespace sffn
