#include "data/batch_source.h"

#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sffn {
namespace {

constexpr uint64_t kMixBlock = 4096;
constexpr int kShareBits = 53;

// ⌊n · share / 2^53⌋, exact for every n.
uint64_t scaled(uint64_t n, uint64_t share) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(n) * share >> kShareBits);
}

}  // namespace

Batch make_batch(int64_t batch, int64_t time) {
  Batch b{batch, time, {}, {}, {}, {}};
  b.inputs.assign(batch * time, 0);
  b.targets.assign(batch * time, -1);
  b.positions.resize(batch * time);
  for (int64_t row = 0; row < batch; ++row) {
    std::iota(b.positions.begin() + row * time, b.positions.begin() + (row + 1) * time, 0);
  }
  return b;
}

void mask_documents(Batch& batch, int64_t row, int32_t end_of_document) {
  batch.segment_start.resize(batch.batch * batch.time, 0);
  int32_t start = 0;
  for (int64_t t = 0; t < batch.time; ++t) {
    const int64_t at = row * batch.time + t;
    batch.segment_start[at] = start;
    batch.positions[at] = static_cast<int32_t>(t) - start;
    if (batch.inputs[at] == end_of_document) start = static_cast<int32_t>(t) + 1;
  }
}

BatchSource::BatchSource(const std::vector<CorpusChoice>& corpora, const BatchOptions& options) : options_(options) {
  SFFN_CHECK(options.context >= 1 && options.sequences_per_step >= 1, "context ", options.context, ", ",
             options.sequences_per_step, " sequences a step");
  if (corpora.empty()) throw UsageError("data.train", "names no corpus");
  double rest = 0;
  for (const CorpusChoice& choice : corpora) {
    if (!(choice.weight > 0) || !std::isfinite(choice.weight)) {
      throw UsageError(choice.path, cat("has the weight ", choice.weight, "; a weight is a positive number"));
    }
    rest += choice.weight;
  }
  for (const CorpusChoice& choice : corpora) {
    const bool last = shares_.size() + 1 == corpora.size();
    const double share = last ? 1.0 : std::min(1.0, choice.weight / rest);
    rest -= choice.weight;
    shares_.push_back(static_cast<uint64_t>(std::ldexp(share, kShareBits)));
    corpora_.emplace_back(choice.path, options.vocab_size);
    const Corpus& corpus = corpora_.back();
    check_same_tokenizer(corpora_.front(), corpus);
    if (options.document_mask && !corpus.tokenizer()) {
      throw UsageError(choice.path, cat("data.document_mask needs the end-of-document id of a ", kManifestName,
                                        ", and there is none beside the shards"));
    }
    count_windows(corpus);
    vocab_size_ = std::max(vocab_size_, corpus.vocab_size());
  }
}

void BatchSource::count_windows(const Corpus& corpus) {
  std::vector<int64_t> ends;
  const TokenFile* longest = &corpus.shards().front();
  int64_t windows = 0;
  for (const TokenFile& shard : corpus.shards()) {
    windows += std::max<int64_t>(0, shard.tokens() - 1) / options_.context;
    ends.push_back(windows);
    if (shard.tokens() > longest->tokens()) longest = &shard;
  }
  if (windows == 0) {
    throw UsageError(longest->path(),
                     cat("holds ", longest->tokens(), " tokens, the longest shard of ", corpus.pattern(),
                         "; model.context ", options_.context, " needs ", options_.context + 1));
  }
  window_ends_.push_back(std::move(ends));
}

// How often each corpus is drawn in the samples [0, sample).
std::vector<uint64_t> BatchSource::draws_before(uint64_t sample) const {
  std::vector<uint64_t> draws;
  uint64_t rest = sample;
  for (const uint64_t share : shares_) {
    draws.push_back(scaled(rest, share));
    rest -= draws.back();
  }
  return draws;
}

BatchSource::Draw BatchSource::draw_of(uint64_t sample) const {
  if (corpora_.size() == 1) return {0, sample};
  const uint64_t block = sample / kMixBlock;
  const std::vector<uint64_t> before = draws_before(block * kMixBlock);
  const std::vector<uint64_t> after = draws_before((block + 1) * kMixBlock);
  const RandomKey key = random_key(options_.seed, RandomSite::kDataMix, 0, static_cast<int64_t>(block));
  uint64_t place = Permutation(key, kMixBlock)(sample % kMixBlock);
  int64_t corpus = 0;
  while (place >= after[corpus] - before[corpus]) {
    place -= after[corpus] - before[corpus];
    ++corpus;
  }
  return {corpus, before[corpus] + place};
}

SampleOrigin BatchSource::origin(uint64_t sample) const {
  const Draw draw = draw_of(sample);
  const std::vector<int64_t>& ends = window_ends_[draw.corpus];
  const auto windows = static_cast<uint64_t>(ends.back());
  SampleOrigin origin;
  origin.corpus = draw.corpus;
  origin.epoch = static_cast<int64_t>(draw.index / windows);
  const RandomKey key = random_key(options_.seed, RandomSite::kDataOrder, draw.corpus, origin.epoch);
  origin.window = static_cast<int64_t>(Permutation(key, windows)(draw.index % windows));
  origin.shard = std::upper_bound(ends.begin(), ends.end(), origin.window) - ends.begin();
  const int64_t first = origin.shard == 0 ? 0 : ends[origin.shard - 1];
  origin.begin = (origin.window - first) * options_.context;
  return origin;
}

Batch BatchSource::sequences(int64_t step, int64_t first, int64_t count) const {
  SFFN_CHECK(step >= 0 && first >= 0 && count >= 0 && first + count <= options_.sequences_per_step, "rows [", first,
             ", ", first + count, ") of ", options_.sequences_per_step, " sequences in step ", step);
  const int64_t T = options_.context;
  Batch batch = make_batch(count, T);
  std::vector<int32_t> window(T + 1);
  for (int64_t row = 0; row < count; ++row) {
    const auto sample = static_cast<uint64_t>(step) * options_.sequences_per_step + first + row;
    const SampleOrigin at = origin(sample);
    const Corpus& corpus = corpora_[at.corpus];
    corpus.shards()[at.shard].read(window.data(), at.begin, T + 1);
    std::copy(window.begin(), window.end() - 1, batch.inputs.begin() + row * T);
    std::copy(window.begin() + 1, window.end(), batch.targets.begin() + row * T);
    if (options_.document_mask) mask_documents(batch, row, corpus.tokenizer()->end_of_document);
  }
  return batch;
}

Hash128 BatchSource::fingerprint() const {
  HashStream hash;
  for (const Corpus& corpus : corpora_) {
    const Hash128 one = corpus.fingerprint();
    hash.update(&one, sizeof one);
  }
  return hash.digest();
}

}  // namespace sffn
