#include "ffn/balance.h"

#include "kernels/ops.h"

namespace sffn {
namespace {

constexpr Named<BalanceType> kTypeNames[] = {{"none", BalanceType::kNone},
                                             {"bias", BalanceType::kBias},
                                             {"switch", BalanceType::kSwitch},
                                             {"entropy", BalanceType::kEntropy},
                                             {"cv2", BalanceType::kCv2}};
constexpr Named<BalanceGroup> kGroupNames[] = {
    {"micro_batch", BalanceGroup::kMicroBatch}, {"sequence", BalanceGroup::kSequence}, {"step", BalanceGroup::kStep}};

double default_weight(BalanceType type) {
  if (type == BalanceType::kEntropy) return 0.001;
  return type == BalanceType::kSwitch || type == BalanceType::kCv2 ? 0.01 : 0.0;
}

BalanceLoss loss_of(BalanceType type) {
  if (type == BalanceType::kSwitch) return BalanceLoss::kSwitch;
  return type == BalanceType::kEntropy ? BalanceLoss::kEntropy : BalanceLoss::kCv2;
}

// The sum over the data-parallel ranks of one row [1, C], in rank order.
Tensor sum_over_ranks(Context& ctx, const Tensor& mine) {
  Communicator& data = *ctx.parallel.data;
  if (data.size() == 1) return mine;
  const Tensor all = ctx.scratch.allocate({data.size(), mine.cols()}, mine.dtype(), "group sums of the ranks");
  data.all_gather(ctx.stream, all, mine, std::vector<int64_t>(static_cast<size_t>(data.size()), 1));
  ops::group_sum(ctx.stream, mine, all);
  return mine;
}

// counts [S, B] of the choices of each group; for the group of a step, of all ranks.
void count_choices(Context& ctx, Tensor counts, const Tensor& blocks, BalanceGroup group) {
  Communicator* data = ctx.parallel.data;
  if (group != BalanceGroup::kStep || data->size() == 1) return ops::count_blocks(ctx.stream, counts, blocks);
  const ArenaScope scope(ctx.scratch);
  const Tensor all = ctx.scratch.allocate({data->size() * blocks.rows(), blocks.cols()}, DType::kI32, "all choices");
  data->all_gather(ctx.stream, all, blocks, std::vector<int64_t>(static_cast<size_t>(data->size()), blocks.rows()));
  ops::count_blocks(ctx.stream, counts, all);
}

}  // namespace

BalanceOptions parse_balance(ConfigReader& entry, BalanceType type, bool gated) {
  ConfigReader reader = entry.child("balance");
  BalanceOptions options;
  options.type = reader.one_of(
      "type", kTypeNames, type,
      gated ? "Balance of load over blocks." : "Balance of load over blocks; not cv2, as blocks have no weights.");
  options.weight = reader
                       .derived<double>("weight", "0.01 for switch and cv2, 0.001 for entropy",
                                        "Of the extra loss; mean over groups, summed over layers.", kNotNegative)
                       .value_or(default_weight(options.type));
  options.rate = reader.optional<double>("rate", 0.001, "bias: step of the bias after each update.", kNotNegative);
  options.group = reader.one_of("group", kGroupNames, BalanceGroup::kMicroBatch,
                                "Tokens over which statistics of losses, capacity and Sinkhorn are taken.");
  if (!reader.collecting() && options.type == BalanceType::kCv2 && !gated) {
    reader.fail("type", "is cv2, which needs a method that weighs its blocks; use switch, entropy or bias");
  }
  reader.finish();
  reader.resolve("weight", options.weight);
  entry.resolve("balance", reader.resolved());
  return options;
}

int64_t balance_groups(BalanceGroup group, int64_t tokens, int64_t time) {
  return group == BalanceGroup::kSequence ? tokens / time : 1;
}

Balance::Balance(const BalanceOptions& options, ParamStore& params, int64_t layer, int64_t blocks)
    : options_(options), layer_(layer), blocks_(blocks) {
  if (options.type == BalanceType::kBias) {
    bias_ = &params.add_state({.name = cat("layers.", layer, ".ffn.balance_bias"),
                               .shape = {blocks},
                               .kind = StateSpec::Kind::kVector,
                               .saved = true});
  }
}

void Balance::forward(Context& ctx, const Tensor& scores, const Tensor& weights, const Tensor& blocks, int64_t time,
                      Saved& saved) const {
  if (!ctx.gradients || !options_.has_loss()) return;
  const int64_t N = blocks.rows(), S = balance_groups(options_.group, N, time);
  const DType acc = scores.dtype();
  const bool whole_step = options_.group == BalanceGroup::kStep;
  const int64_t ranks = whole_step ? ctx.parallel.data->size() : 1;
  saved.dsums = ctx.saved.allocate({S, blocks_}, acc, "balance gradient");
  if (options_.z_weight > 0) saved.lse = ctx.saved.allocate({N}, acc, "router lse");

  const ArenaScope scope(ctx.scratch);
  Tensor loss = ctx.scratch.allocate({1}, acc, "unrecorded loss");
  if (ctx.extra_losses.defined()) loss = ctx.extra_losses.slice(layer_, 1);
  if (options_.of_scores()) {
    const Tensor p = ctx.scratch.allocate(scores.shape(), acc, "softmax of scores");
    ops::softmax_rows_forward(ctx.stream, p, saved.lse, scores);
    ops::group_sum(ctx.stream, saved.dsums, p);
  }
  if (options_.of_weights()) ops::block_weight_sums(ctx.stream, saved.dsums, weights, blocks);
  if (saved.lse.defined()) ops::mean_square(ctx.stream, loss, saved.lse, options_.z_weight);
  if (options_.type < BalanceType::kSwitch) return ops::fill_zero(ctx.stream, saved.dsums);

  if (whole_step) sum_over_ranks(ctx, saved.dsums);
  Tensor counts;
  if (options_.type == BalanceType::kSwitch) {
    counts = ctx.scratch.allocate({S, blocks_}, DType::kI32, "choices per block");
    count_choices(ctx, counts, blocks, options_.group);
  }
  // The loss is a mean over micro-batches, so each carries 1/M of the gradient; one group over all ranks is no mean.
  const double gradient_weight = options_.weight * ctx.extra_loss_scale * static_cast<double>(ranks);
  ops::balance_loss(ctx.stream, loss, saved.dsums, saved.dsums, counts, loss_of(options_.type),
                    static_cast<double>(N * ranks / S), options_.weight, gradient_weight);
}

void Balance::backward_scores(Context& ctx, Tensor dscores, const Tensor& scores, const Saved& saved) const {
  if (!options_.of_scores()) return;
  const ArenaScope scope(ctx.scratch);
  const Tensor p = ctx.scratch.allocate(scores.shape(), scores.dtype(), "softmax of scores");
  ops::softmax_rows_forward(ctx.stream, p, Tensor(), scores);
  const double lse_scale = 2 * options_.z_weight * ctx.extra_loss_scale / static_cast<double>(scores.rows());
  const Tensor dsums = options_.of_weights() ? Tensor() : saved.dsums;
  ops::softmax_rows_backward(ctx.stream, dscores, p, dsums, saved.lse, lse_scale);
}

void Balance::backward_weights(Context& ctx, Tensor dweights, const Tensor& blocks, const Saved& saved) const {
  if (options_.of_weights()) ops::add_block_values(ctx.stream, dweights, saved.dsums, blocks);
}

void Balance::after_step(Stream& stream, const Tensor& load, const Tensor& numbers) {
  if (bias_ != nullptr) ops::update_balance_bias(stream, bias_->value, load, numbers, options_.rate);
}

}  // namespace sffn
