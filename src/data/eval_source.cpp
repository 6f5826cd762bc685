#include "data/eval_source.h"

#include "core/file.h"
#include "core/log.h"
#include "data/tokenizer.h"

#include <algorithm>

namespace sffn {

EvalSource::EvalSource(const std::string& pattern, const EvalOptions& options)
    : corpus_(pattern, options.vocab_size), options_(options) {
  SFFN_CHECK(options.context >= 1 && options.stride >= 0 && options.max_tokens >= 0, "context ", options.context,
             ", stride ", options.stride, ", ", options.max_tokens, " tokens");
  const int64_t N = options_.context;
  if (options_.stride == 0) options_.stride = N;
  if (options_.stride > N) {
    throw UsageError("stride", cat(options_.stride, " is above the context ", N, ": tokens would not be scored"));
  }
  if (options_.document_mask && !corpus_.tokenizer()) {
    throw UsageError(pattern, cat("data.document_mask needs the end-of-document id of a ", kManifestName,
                                  ", and there is none beside the shards"));
  }
  int64_t windows = 0;
  for (const TokenFile& shard : corpus_.shards()) {
    int64_t targets = std::max<int64_t>(0, shard.tokens() - 1);
    if (options_.max_tokens > 0) targets = std::min(targets, options_.max_tokens - tokens_);
    if (targets > 0) windows += 1 + (std::max<int64_t>(0, targets - N) + options_.stride - 1) / options_.stride;
    tokens_ += targets;
    targets_.push_back(targets);
    window_ends_.push_back(windows);
  }
  if (tokens_ == 0) throw UsageError(pattern, "has no token to score: the first of each shard is not scored");
  load_byte_lengths();
}

void EvalSource::load_byte_lengths() {
  if (!corpus_.tokenizer()) return;
  const TokenizerInfo& info = *corpus_.tokenizer();
  if (!info.path.empty() && !exists(info.path)) {
    log::warn(info.path, ": is missing; bits per byte are not known");
    return;
  }
  const auto tokenizer = load_tokenizer(info);
  if (!tokenizer->lossless()) return;
  for (int64_t id = 0; id < tokenizer->vocab_size(); ++id) {
    byte_lengths_.push_back(static_cast<int32_t>(tokenizer->text_of(static_cast<int32_t>(id)).size()));
  }
}

EvalWindow EvalSource::window(int64_t index) const {
  SFFN_CHECK(index >= 0 && index < windows(), "window ", index, " of ", windows());
  const int64_t N = options_.context, stride = options_.stride;
  EvalWindow window;
  window.shard = std::upper_bound(window_ends_.begin(), window_ends_.end(), index) - window_ends_.begin();
  const int64_t w = index - (window.shard == 0 ? 0 : window_ends_[window.shard - 1]);
  const int64_t scored_before = w == 0 ? 0 : N + (w - 1) * stride;
  const int64_t scored_after = std::min(N + w * stride, targets_[window.shard]);
  window.begin = w * stride;
  window.length = scored_after - window.begin;
  window.scored = scored_after - scored_before;
  return window;
}

std::vector<EvalBatch> EvalSource::batches(int64_t most) const {
  SFFN_CHECK(most >= 1, "batches of ", most);
  std::vector<EvalBatch> batches;
  int64_t length = 0;  // of the last batch's windows
  for (int64_t index = 0; index < windows(); ++index) {
    if (const int64_t mine = window(index).length; mine != length || batches.back().count == most) {
      batches.push_back({index, 0});
      length = mine;
    }
    ++batches.back().count;
  }
  return batches;
}

Batch EvalSource::batch(const EvalBatch& at, int64_t rows) const {
  const int64_t T = rows > 0 ? options_.context : window(at.first).length;
  Batch batch = make_batch(rows > 0 ? rows : at.count, T);
  SFFN_CHECK(at.count <= batch.batch, at.count, " windows in ", batch.batch, " rows");
  std::vector<int32_t> tokens(T + 1);
  for (int64_t row = 0; row < batch.batch; ++row) {
    if (row < at.count) {
      const EvalWindow of_row = window(at.first + row);
      SFFN_CHECK(of_row.length <= T, "a window of ", of_row.length, " tokens among windows of ", T);
      corpus_.shards()[of_row.shard].read(tokens.data(), of_row.begin, of_row.length + 1);
      std::copy_n(tokens.begin(), of_row.length, batch.inputs.begin() + row * T);
      const int64_t unscored = of_row.length - of_row.scored;
      std::copy_n(tokens.begin() + 1 + unscored, of_row.scored, batch.targets.begin() + row * T + unscored);
    }
    if (options_.document_mask) mask_documents(batch, row, corpus_.tokenizer()->end_of_document);
  }
  return batch;
}

std::optional<int64_t> EvalSource::scored_bytes(const Batch& batch) const {
  if (byte_lengths_.empty()) return std::nullopt;
  int64_t bytes = 0;
  for (const int32_t target : batch.targets) bytes += target < 0 ? 0 : byte_lengths_[target];
  return bytes;
}

}  // namespace sffn
