// Perplexity of held-out sets. The result does not depend on the number of ranks: windows are taken in batches of fixed
// composition, ranks take batches in turn, and the windows' sums are added in order.
#pragma once
#include "comm/communicator.h"
#include "core/json.h"
#include "data/batch_source.h"
#include "data/eval_source.h"
#include "train/hooks.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace sffn {

// -log p of each token [B·T] of a batch; 0 where the target is -1.
using TokenNll = std::function<std::vector<float>(const Batch&)>;
// Called on every rank before each round of batches with (done, total); false on any rank ends the evaluation.
using EvaluationProgress = std::function<bool(int64_t done, int64_t total)>;

// Collective. nll is the mean over scored tokens in nats; perplexity = exp(nll); bits per byte = Σ nll / (ln 2 ·
// bytes). Batches have at most `batch` windows of one length, and nothing else. in_step: every rank calls token_nll in
// every round and with `batch` rows of a whole context, of which those without targets belong to no window.
// Returns false when it was ended early; `result` is then unset.
bool evaluate_set(const EvalSource& source, int64_t batch, Communicator& comm, const TokenNll& token_nll,
                  const EvaluationProgress& progress, EvaluationResult& result, bool in_step = false);

// macro: mean of the sets' perplexities; micro: exp of the token-weighted mean nll.
double macro_perplexity(const std::map<std::string, EvaluationResult>& sets);
double micro_perplexity(const std::map<std::string, EvaluationResult>& sets);

}  // namespace sffn
