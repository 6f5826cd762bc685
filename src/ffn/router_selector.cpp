#include "ffn/router_selector.h"

#include "ffn/block_scores.h"
#include "kernels/ops.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/linear.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sffn {
namespace {

constexpr double kAuctionEpsilon = 1e-4;
constexpr int64_t kAuctionRounds = 256;  // normal logits take 3, those of one order of blocks for all tokens 20

Param* add_router(const FfnBuild& build, const char* name, int64_t blocks, Init init) {
  return &build.params.add({.name = cat("layers.", build.layer, ".ffn.", name, ".weight"),
                            .shape = {blocks, build.model.d_model},
                            .init = init,
                            .storage = Storage::kVector});
}

// The rows [N, C] of every data-parallel rank, in rank order, in ctx.scratch.
Tensor gather_ranks(Context& ctx, const Tensor& mine) {
  Communicator& data = *ctx.parallel.data;
  const Tensor all = ctx.scratch.allocate({data.size() * mine.rows(), mine.cols()}, mine.dtype(), "rows of all ranks");
  data.all_gather(ctx.stream, all, mine, std::vector<int64_t>(static_cast<size_t>(data.size()), mine.rows()));
  return all;
}

Tensor zeros_in_scratch(Context& ctx, const Shape& shape, DType dtype, const char* what) {
  const Tensor zeros = ctx.scratch.allocate(shape, dtype, what);
  ops::fill_zero(ctx.stream, zeros);
  return zeros;
}

}  // namespace

RouterSelector::RouterSelector(const FfnBuild& build, const BlockShape& shape, const RouterOptions& options)
    : options_(options),
      layer_(build.layer),
      blocks_(shape.blocks()),
      per_token_(shape.per_token),
      router_(add_router(build, "router", shape.blocks(), router_init(build.model))),
      noise_(options.noise ? add_router(build, "router_noise", shape.blocks(), {}) : nullptr),
      balance_(options.balance, build.params, build.layer, shape.blocks()) {}

bool RouterSelector::needs_whole_step() const {
  const bool grouped_choice =
      options_.capacity_factor || options_.assignment == Assignment::kAuction ||
      (options_.assignment == Assignment::kSinkhorn && options_.sinkhorn == Sinkhorn::kTextbook);
  return balance_.needs_whole_step() || (grouped_choice && options_.balance.group == BalanceGroup::kStep);
}

// Whether a group is the tokens of several ranks. Evaluation is of whichever tokens a process has.
bool RouterSelector::over_ranks(const Context& ctx) const {
  return options_.balance.group == BalanceGroup::kStep && ctx.training && ctx.parallel.data->size() > 1;
}

Dropout RouterSelector::expert_dropout(const Context& ctx, int64_t time) const {
  return site_dropout(ctx, options_.expert_dropout, RandomSite::kExpertDropout, layer_, time * blocks_);
}

Draws RouterSelector::noise_draws(const Context& ctx, int64_t time) const {
  return site_draws(ctx, RandomSite::kRouterNoise, layer_, time * blocks_);
}

void RouterSelector::jitter(Context& ctx, Tensor x, int64_t time) const {
  ops::jitter(ctx.stream, x, options_.jitter, site_draws(ctx, RandomSite::kRouterJitter, layer_, time * x.cols()));
}

// x, or its jittered copy [N, D] acc in ctx.scratch.
Tensor RouterSelector::router_input(Context& ctx, const SelectorInput& in) const {
  if (!jitters(ctx)) return in.x;
  const Tensor x = ctx.scratch.allocate(in.x.shape(), accumulate_type(in.x.dtype()), "jittered x");
  ops::copy(ctx.stream, x, in.x);
  jitter(ctx, x, in.time);
  return x;
}

// The logits that weigh: with noise where it is drawn, then in ctx.scratch.
Tensor RouterSelector::gate_logits(Context& ctx, const Saved& saved, int64_t time) const {
  if (!saved.spread.defined()) return saved.logits;
  const Tensor noisy = ctx.scratch.allocate(saved.logits.shape(), saved.logits.dtype(), "noisy logits");
  ops::noisy_scores_forward(ctx.stream, noisy, saved.logits, saved.spread, noise_draws(ctx, time));
  return noisy;
}

Selection RouterSelector::select(Context& ctx, const SelectorInput& in, std::unique_ptr<Selector::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  const int64_t N = in.x.rows();
  const DType acc = accumulate_type(in.x.dtype());
  const Tensor blocks = ctx.saved.allocate({N, per_token_}, DType::kI32, "chosen blocks");
  const Tensor weights = ctx.saved.allocate({N, per_token_}, acc, "weights of blocks");
  saved->logits = ctx.saved.allocate({N, blocks_}, acc, "router logits");
  if (noise_ != nullptr && ctx.training) saved->spread = ctx.saved.allocate({N, blocks_}, acc, "router spread");

  const ArenaScope scope(ctx.scratch);
  const Tensor x = router_input(ctx, in);
  block_scores(ctx, saved->logits, x, router_->value);
  if (saved->spread.defined()) block_scores(ctx, saved->spread, x, noise_->value);
  const Tensor logits = gate_logits(ctx, *saved, in.time);
  choose(ctx, blocks, logits, in);
  const Tensor kept = keep(ctx, blocks, in);
  ops::gate_forward(ctx.stream, weights, logits, kept, options_.gate);
  balance_.forward(ctx, saved->logits, weights, blocks, in.time, saved->balance);
  out_saved = std::move(saved);
  return {.blocks = blocks, .kept = kept, .weights = weights};
}

void RouterSelector::choose(Context& ctx, Tensor blocks, const Tensor& logits, const SelectorInput& in) const {
  if (ctx.training && options_.assignment == Assignment::kAuction) return assign(ctx, blocks, logits, in.time);
  const ArenaScope scope(ctx.scratch);
  ops::top_b(ctx.stream, blocks, in.nans, choice_scores(ctx, logits, in.time), balance_.bias());
}

// logits themselves, or other scores [N, B] in ctx.scratch.
Tensor RouterSelector::choice_scores(Context& ctx, const Tensor& logits, int64_t time) const {
  const Dropout dropout = expert_dropout(ctx, time);
  const bool masked = dropout.probability > 0;
  if (ctx.training && options_.assignment == Assignment::kSinkhorn) {
    const Tensor scores = balanced_scores(ctx, logits, time);
    if (masked) ops::mask_scores(ctx.stream, scores, -std::numeric_limits<double>::infinity(), dropout);
    return scores;
  }
  const bool order_alone = !masked && !balance_.bias().defined();
  if (order_alone) return logits;
  const Tensor scores = ctx.scratch.allocate(logits.shape(), logits.dtype(), "scores of the choice");
  switch (options_.score) {
    case RouterScore::kLogit:
      ops::copy(ctx.stream, scores, logits);
      break;
    case RouterScore::kSigmoid:
      ops::sigmoid_forward(ctx.stream, scores, logits);
      break;
    case RouterScore::kSoftmax:
      ops::softmax_rows_forward(ctx.stream, scores, Tensor(), logits);
      break;
  }
  const double zero = options_.score == RouterScore::kLogit ? -std::numeric_limits<double>::infinity() : 0.0;
  if (masked) ops::mask_scores(ctx.stream, scores, zero, dropout);
  return scores;
}

Tensor RouterSelector::balanced_scores(Context& ctx, const Tensor& logits, int64_t time) const {
  const int64_t N = logits.rows();
  const bool published = options_.sinkhorn == Sinkhorn::kAsPublished;  // of each sequence
  const bool gathered = over_ranks(ctx) && !published;
  const Tensor all = gathered ? gather_ranks(ctx, logits) : logits;
  const Tensor scores = ctx.scratch.allocate(all.shape(), all.dtype(), "balanced scores");
  const int64_t groups = balance_groups(published ? BalanceGroup::kSequence : options_.balance.group, N, time);
  ops::sinkhorn(ctx.stream, scores, all, groups, options_.sinkhorn_iterations, options_.sinkhorn);
  return gathered ? scores.slice(ctx.parallel.data->rank() * N, N) : scores;
}

void RouterSelector::assign(Context& ctx, Tensor blocks, const Tensor& logits, int64_t time) const {
  const int64_t N = logits.rows(), groups = balance_groups(options_.balance.group, N, time);
  if (!over_ranks(ctx)) return ops::auction(ctx.stream, blocks, logits, groups, kAuctionEpsilon, kAuctionRounds);
  const ArenaScope scope(ctx.scratch);
  const Tensor all = gather_ranks(ctx, logits);
  const Tensor assigned = ctx.scratch.allocate({all.rows(), 1}, DType::kI32, "blocks of all ranks");
  ops::auction(ctx.stream, assigned, all, groups, kAuctionEpsilon, kAuctionRounds);
  ops::copy(ctx.stream, blocks, assigned.slice(ctx.parallel.data->rank() * N, N));
}

// The choices with -1 for those that weigh 0: blocks themselves, or another tensor in ctx.saved.
Tensor RouterSelector::keep(Context& ctx, const Tensor& blocks, const SelectorInput& in) const {
  const Dropout dropout = expert_dropout(ctx, in.time);
  if (dropout.probability == 0 && !options_.capacity_factor) return blocks;
  const Tensor kept = ctx.saved.allocate(blocks.shape(), DType::kI32, "kept blocks");
  if (dropout.probability > 0) {
    ops::drop_choices(ctx.stream, kept, blocks, blocks_, dropout);
  } else {
    ops::copy(ctx.stream, kept, blocks);
  }
  if (options_.capacity_factor) limit_capacity(ctx, kept, in);
  return kept;
}

void RouterSelector::limit_capacity(Context& ctx, Tensor kept, const SelectorInput& in) const {
  const ArenaScope scope(ctx.scratch);
  const Communicator& data = *ctx.parallel.data;
  const int64_t N = kept.rows(), groups = balance_groups(options_.balance.group, N, in.time);
  const int64_t tokens = over_ranks(ctx) ? N * data.size() : N / groups;
  const auto n = static_cast<double>(tokens), b = static_cast<double>(per_token_), B = static_cast<double>(blocks_);
  const double capacity = std::min(std::ceil(*options_.capacity_factor * n * b / B), n);  // a token takes a block once
  Tensor taken;
  if (over_ranks(ctx)) {
    const Tensor all = gather_ranks(ctx, kept);
    taken = ctx.scratch.allocate({1, blocks_}, DType::kI32, "choices of earlier ranks");
    ops::count_blocks(ctx.stream, taken, all.slice(0, data.rank() * N));
  }
  ops::limit_capacity(ctx.stream, kept, in.dropped, taken, groups, blocks_, static_cast<int64_t>(capacity));
}

void RouterSelector::backward(Context& ctx, const Selector::Saved& base, const SelectorInput& in,
                              const Selection& chosen, const Tensor& dweights, Tensor dx) {
  const Saved& saved = static_cast<const Saved&>(base);
  const DType acc = saved.logits.dtype();
  const ArenaScope scope(ctx.scratch);
  balance_.backward_weights(ctx, dweights, chosen.kept, saved.balance);
  const Tensor dlogits = zeros_in_scratch(ctx, saved.logits.shape(), acc, "router dlogits");
  const Tensor logits = gate_logits(ctx, saved, in.time);
  Tensor dspread;
  if (saved.spread.defined()) {
    const Tensor dnoisy = zeros_in_scratch(ctx, logits.shape(), acc, "noisy dlogits");
    dspread = zeros_in_scratch(ctx, logits.shape(), acc, "router dspread");
    ops::gate_backward(ctx.stream, dnoisy, dweights, chosen.weights, logits, chosen.kept, options_.gate);
    ops::noisy_scores_backward(ctx.stream, dlogits, dspread, dnoisy, saved.spread, noise_draws(ctx, in.time));
  } else {
    ops::gate_backward(ctx.stream, dlogits, dweights, chosen.weights, logits, chosen.kept, options_.gate);
  }
  balance_.backward_scores(ctx, dlogits, saved.logits, saved.balance);
  backward_input(ctx, dlogits, dspread, in, dx);
}

// l = x'·Wᵀ, spread = x'·W_nᵀ, x' = x ⊙ U with jitter.
void RouterSelector::backward_input(Context& ctx, const Tensor& dlogits, const Tensor& dspread, const SelectorInput& in,
                                    Tensor dx) const {
  const Tensor x = router_input(ctx, in);
  const Tensor to = jitters(ctx) ? zeros_in_scratch(ctx, x.shape(), x.dtype(), "router dx") : dx;
  block_scores_backward(ctx, router_->grad, to, dlogits, x, router_->value);
  if (dspread.defined()) block_scores_backward(ctx, noise_->grad, to, dspread, x, noise_->value);
  if (!jitters(ctx)) return;
  jitter(ctx, to, in.time);
  ops::add(ctx.stream, dx, to);
}

FfnCost RouterMethod::selector_cost(const ModelConfig& model) const {
  const int64_t tables = router_.noise ? 2 : 1;
  const int64_t parameters = tables * shape().blocks() * model.d_model;
  return {.parameters = parameters,
          .active_parameters = parameters,
          .flops_per_token = static_cast<double>(2 * parameters)};
}

std::unique_ptr<Selector> RouterMethod::make_selector(const FfnBuild& build, const BlockStore&) const {
  return std::make_unique<RouterSelector>(build, shape(), router_);
}

double parse_expert_dropout(ConfigReader& reader) {
  return reader.optional<double>("expert_dropout", 0.0,
                                 "In training, the probability that a block is hidden from a token's choice.",
                                 kProbability);
}

}  // namespace sffn
