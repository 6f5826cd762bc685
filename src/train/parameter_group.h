// Parameters that the same ranks hold: all of a model's, or those on every rank, and tables of blocks that are spread
// over expert ranks. Each group has flat ranges, a sum over its own micro-batches and an optimizer of its own.
#pragma once
#include "comm/tree.h"
#include "config/config.h"
#include "core/arena.h"
#include "core/params.h"
#include "nn/context.h"
#include "train/optimizer.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sffn {

class ParameterGroup {
 public:
  // spread: the tables of blocks of one expert rank, summed over parallel.replicas; else what every rank holds, summed
  // over parallel.data. leaves: of each of these ranks, its share of the micro-batches of a step.
  ParameterGroup(const Config&, const Parallel& parallel, DeviceRuntime&, ParamStore&, bool spread,
                 std::vector<LeafRange> leaves);

  ParamStore& params() const { return *params_; }
  Communicator& replicas() const { return *replicas_; }  // the ranks that hold the same values
  AdamW& optimizer() const { return *optimizer_; }

  // A micro-batch accumulates its gradients between next() and push().
  void start() const { fold_->start(); }
  void next(Stream& stream) const { params_->use_gradients(fold_->next(stream)); }
  void push(Stream& stream) const { fold_->push(stream); }

  // Chunks of the group on all ranks that hold different ones, each once.
  int64_t chunks() const;
  // The sum of all micro-batches' gradients comes to the ranks that update with it; squares [chunks(), 1] f64 = Σ g² of
  // every chunk. Collective.
  void exchange(Stream&, Arena& scratch, Tensor squares) const;
  // numbers: ops::adamw.
  void update(Stream& stream, const Tensor& numbers) const { optimizer_->update(stream, own_gradient(), numbers); }
  // After an update every replica gets the others' values. Collective.
  void gather_values(Stream&) const;
  // The values of this rank's range follow their master copy.
  void round_values(Stream&) const;
  // The flat indices that this rank answers for: over its replicas every one once.
  FlatRange owned() const {
    return partition_flat(*params_, replicas_->size())[static_cast<size_t>(replicas_->rank())];
  }
  size_t gradient_bytes() const { return gradients_.bytes(); }
  // In how many pieces a rank's gradients go to each replica.
  int64_t exchange_rounds() const;

 private:
  Tensor own_gradient() const {
    return fold_->partials()[0].slice(optimizer_->range().offset, optimizer_->range().count);
  }

  ParamStore* params_;
  Communicator* replicas_;
  Communicator* sharers_;  // expert ranks, where the blocks are spread over them
  Communicator* holders_;  // the ranks that have different chunks, together all of them; none: every rank has all
  bool sharded_;           // the optimizer's state, over the replicas
  std::vector<FlatRange> ranges_;      // per replica: the flat indices it updates
  std::vector<int64_t> chunk_counts_;  // per holder
  Buffer gradients_;
  std::unique_ptr<SumTree> tree_;  // over the micro-batches whose gradients the replicas sum: its leaves
  std::unique_ptr<TreeFold> fold_;
  std::unique_ptr<AdamW> optimizer_;
};

// Elements [begin, end) of a parameter in memory, padded rows left out, that a rank answers for: of one piece of the
// optimizer, and neighbours in the checkpoint's tensor too.
struct OwnedPiece {
  const AdamW::Piece* piece = nullptr;
  int64_t begin = 0, end = 0;
  int64_t first = 0;  // of the checkpoint's tensor
};
// of the group's owned() range, or of all that it holds
std::vector<OwnedPiece> owned_pieces(const ParameterGroup& group);
std::vector<OwnedPiece> held_pieces(const ParameterGroup& group);
// This rank's rows of what all ranks fill together.
Tensor own_rows(const Communicator& ranks, const Tensor& of_all_ranks, std::span<const int64_t> counts);

}  // namespace sffn
