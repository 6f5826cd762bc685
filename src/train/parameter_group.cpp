#include "train/parameter_group.h"

#include "kernels/ops.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sffn {

Tensor own_rows(const Communicator& ranks, const Tensor& of_all_ranks, std::span<const int64_t> counts) {
  const auto rank = static_cast<size_t>(ranks.rank());
  return of_all_ranks.slice(std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0}), counts[rank]);
}

namespace {

std::vector<OwnedPiece> pieces_within(const ParameterGroup& group, FlatRange range) {
  std::vector<OwnedPiece> pieces;
  for (const AdamW::Piece& piece : group.optimizer().pieces()) {
    const int64_t offset = piece.param->offset;
    for (const ElementRun& run : piece.param->spec.runs()) {
      const int64_t begin = std::max({piece.begin, range.offset - offset, run.at});
      const int64_t end = std::min({piece.end, range.offset + range.count - offset, run.at + run.count});
      if (begin < end) pieces.push_back({&piece, begin, end, run.first + (begin - run.at)});
    }
  }
  return pieces;
}

}  // namespace

std::vector<OwnedPiece> owned_pieces(const ParameterGroup& group) { return pieces_within(group, group.owned()); }
std::vector<OwnedPiece> held_pieces(const ParameterGroup& group) {
  return pieces_within(group, {0, group.params().flat_size()});
}

ParameterGroup::ParameterGroup(const Config& config, const Parallel& parallel, DeviceRuntime& runtime,
                               ParamStore& params, bool spread, std::vector<LeafRange> leaves)
    : params_(&params),
      replicas_(spread ? parallel.replicas : parallel.data),
      sharers_(spread ? parallel.expert : nullptr),
      holders_(config.parallel.zero == 1 ? parallel.data : sharers_),
      sharded_(config.parallel.zero == 1) {
  const int rank = replicas_->rank(), ranks = replicas_->size();
  if (sharded_) {
    ranges_ = partition_flat(params, ranks);
  } else {
    ranges_.assign(static_cast<size_t>(ranks), FlatRange{0, params.flat_size()});
  }
  optimizer_ = std::make_unique<AdamW>(config.optimizer, params, ranges_[static_cast<size_t>(rank)], runtime);

  // One gradient buffer on a device that records its work: every micro-batch writes to the same place.
  const bool folds = config.train.deterministic && !runtime.is_asynchronous();
  tree_ = std::make_unique<SumTree>(std::move(leaves), folds);
  const int64_t buffers = tree_->buffers(rank);
  const DType type = accumulate_type(params.dtype());
  gradients_ = Buffer(runtime, {buffers, params.flat_size()}, type);
  const Tensor all = gradients_.tensor({buffers, params.flat_size()}, type);
  std::vector<Tensor> flat;
  for (int64_t i = 0; i < buffers; ++i) flat.push_back(all.slice(i, 1).view({params.flat_size()}));
  fold_ = std::make_unique<TreeFold>(*tree_, rank, std::move(flat));

  // Every expert rank has as many chunks: its tables have the shapes of the others'.
  const int holders = holders_ == nullptr ? 1 : holders_->size(), expert_ranks = spread ? sharers_->size() : 1;
  for (int holder = 0; holder < holders; ++holder) {
    const auto replica = static_cast<size_t>(sharded_ ? holder / expert_ranks : 0);
    chunk_counts_.push_back(chunk_count(params, ranges_[replica]));
  }
}

int64_t ParameterGroup::chunks() const {
  return std::accumulate(chunk_counts_.begin(), chunk_counts_.end(), int64_t{0});
}

void ParameterGroup::exchange(Stream& stream, Arena& scratch, Tensor squares) const {
  const FlatRange range = optimizer_->range();
  const Tensor grad = own_gradient();
  tree_reduce_scatter(stream, *replicas_, scratch, *tree_, grad, fold_->partials(), ranges_,
                      tree_exchange_bytes(replicas_->size()));
  const Tensor mine = holders_ == nullptr ? squares : own_rows(*holders_, squares, chunk_counts_);
  chunk_square_sums(stream, mine.view({mine.rows()}), *params_, range, grad);
  if (holders_ != nullptr && holders_->size() > 1) holders_->all_gather(stream, squares, mine, chunk_counts_);
}

int64_t ParameterGroup::exchange_rounds() const {
  return tree_exchange_rounds(*tree_, replicas_->rank(), ranges_, accumulate_type(params_->dtype()),
                              tree_exchange_bytes(replicas_->size()));
}

void ParameterGroup::gather_values(Stream& stream) const {
  if (sharded_) sffn::gather_values(stream, *replicas_, *params_, ranges_);
}

void ParameterGroup::round_values(Stream& stream) const {
  for (const AdamW::Piece& piece : optimizer_->pieces()) {
    if (piece.rounded.defined()) ops::copy(stream, piece.rounded, piece.master);
  }
}

}  // namespace sffn
