// The batch of a step as a pure function of (seed, step): ranks, micro-batch and resume do not enter.
//
// A corpus of T-token contexts is cut into windows of T + 1 tokens that advance by T inside each shard (the tail of a
// shard is dropped). Sequence i of step s is sample j = s · S + i of an endless stream:
//   one corpus:  window π_e(j mod W) of epoch e = j div W, π_e a keyed permutation of its W windows;
//   several:     blocks of 4096 samples. Before sample n the corpora 0 … C-1 have been drawn exactly
//                c_0 = ⌊n p_0⌋, c_1 = ⌊(n - c_0) p_1⌋, … times, p_k = w_k / Σ_{i ≥ k} w_i; inside a block a keyed
//                permutation orders the draws. Draw d of a corpus is its window π_{d div W}(d mod W).
#pragma once
#include "core/hash.h"
#include "data/corpus.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sffn {

// Rows of B sequences of T tokens, on the host.
struct Batch {
  int64_t batch = 0, time = 0;
  std::vector<int32_t> inputs, targets;  // [B·T]; a target of -1 is not scored
  std::vector<int32_t> positions;        // [B·T]: 0 … T-1, restarting at documents under document_mask
  std::vector<int32_t> segment_start;    // [B·T]: first visible position of the row; empty without document_mask
};

// Room for B rows of T tokens: inputs 0, targets -1, positions 0 … T-1.
Batch make_batch(int64_t batch, int64_t time);
// Fills positions and segment_start of one row: a document ends with the id `end_of_document`, and the next begins.
void mask_documents(Batch& batch, int64_t row, int32_t end_of_document);

struct CorpusChoice {
  std::string path;   // a glob
  double weight = 1;  // share of the samples, relative to the others
};

struct BatchOptions {
  int64_t context = 0;             // T
  int64_t sequences_per_step = 0;  // S, over all ranks
  int64_t vocab_size = 0;          // the model's; 0: the manifest's
  uint64_t seed = 0;
  bool document_mask = false;
};

// Where a sample comes from.
struct SampleOrigin {
  int64_t corpus = 0, epoch = 0, window = 0;
  int64_t shard = 0, begin = 0;  // first token of the window in that shard

  bool operator==(const SampleOrigin&) const = default;
};

class BatchSource {
 public:
  // Throws what Corpus throws; UsageError for weights that are not positive, corpora of different tokenizers, a context
  // longer than every shard of a corpus, document_mask without a manifest.
  BatchSource(const std::vector<CorpusChoice>& corpora, const BatchOptions& options);

  // Rows [first, first + count) of the step's S sequences.
  Batch sequences(int64_t step, int64_t first, int64_t count) const;
  SampleOrigin origin(uint64_t sample) const;

  const std::vector<Corpus>& corpora() const { return corpora_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t windows(int64_t corpus) const { return window_ends_[corpus].back(); }
  // Of the content of all corpora, in order: a resumed run must find the same.
  Hash128 fingerprint() const;

 private:
  struct Draw {
    int64_t corpus;
    uint64_t index;
  };
  Draw draw_of(uint64_t sample) const;
  std::vector<uint64_t> draws_before(uint64_t sample) const;
  void count_windows(const Corpus& corpus);

  BatchOptions options_;
  std::vector<Corpus> corpora_;
  std::vector<uint64_t> shares_;                   // p_k as a fraction of 2^53
  std::vector<std::vector<int64_t>> window_ends_;  // per corpus: windows in shards 0 … i
  int64_t vocab_size_ = 0;
};

}  // namespace sffn
