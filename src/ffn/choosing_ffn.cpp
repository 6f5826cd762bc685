#include "ffn/choosing_ffn.h"

#include "kernels/ops.h"
#include "nn/host_values.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace sffn {
BlockCounters::BlockCounters(ParamStore& params, int64_t layer, int64_t blocks)
    : state_(&params.add_state(
          {.name = cat("layers.", layer, ".ffn.counters"), .shape = {blocks + 2}, .kind = StateSpec::Kind::kCounter})),
      blocks_(blocks) {}

void BlockCounters::count(Context& ctx, const Tensor& blocks) const {
  if (!ctx.count_choices) return;
  const ArenaScope scope(ctx.scratch);
  const Tensor counts = ctx.scratch.allocate({1, blocks_}, DType::kI32, "choices per block");
  ops::count_blocks(ctx.stream, counts, blocks);
  ops::accumulate_counts(ctx.stream, state_->value.slice(0, blocks_), counts);
}

Json BlockCounters::statistics(const std::vector<double>& counts) const {
  const std::vector<double> choices = load(counts);
  const double total = std::accumulate(choices.begin(), choices.end(), 0.0);
  const double most = *std::max_element(choices.begin(), choices.end());
  double entropy = 0;
  for (const double count : choices) {
    if (count > 0) entropy -= count / total * std::log(count / total);
  }
  const auto B = static_cast<double>(blocks_);
  Json json = Json::object();
  json["load_max_over_mean"] = total > 0 ? most * B / total : 0.0;
  json["load_entropy"] = blocks_ > 1 ? entropy / std::log(B) : 1.0;
  json["dead_blocks"] = static_cast<double>(std::count(choices.begin(), choices.end(), 0.0)) / B;
  json["dropped"] = total > 0 ? counts[static_cast<size_t>(blocks_)] / total : 0.0;
  if (const double nans = counts[static_cast<size_t>(blocks_) + 1]; nans > 0) json["nan_scores"] = nans;
  return json;
}

void record_choices(Context& ctx, int64_t layer, const Selection& chosen) {
  if (ctx.choices == nullptr || ctx.stream.is_meta()) return;
  ChoiceRecord record{.layer = layer, .per_token = chosen.blocks.cols(), .blocks = {}, .weights = {}};
  record.blocks.resize(static_cast<size_t>(chosen.blocks.numel()));
  ctx.stream.copy_to_host(record.blocks.data(), chosen.blocks);
  ctx.stream.synchronize();
  if (chosen.weights.defined()) {
    record.weights = read_values(ctx.stream, chosen.weights);
  } else {
    record.weights.assign(record.blocks.size(), 1.0);
  }
  ctx.choices->push_back(std::move(record));
}

ChoosingFfn::ChoosingFfn(const FfnBuild& build, const FfnCost& cost, int64_t blocks)
    : cost_(cost),
      dropout_probability_(build.model.dropout),
      layer_(build.layer),
      d_model_(build.model.d_model),
      norm_(build.params, cat("layers.", layer_, ".ffn_norm"), d_model_, build.model.norm, build.model.norm_eps),
      counters_(build.params, layer_, blocks) {}

Dropout ChoosingFfn::dropout(const Context& ctx, int64_t time) const {
  return site_dropout(ctx, dropout_probability_, RandomSite::kFfnDropout, layer_, time * d_model_);
}

Residual ChoosingFfn::forward(Context& ctx, const FfnInput& in, std::unique_ptr<FfnLayer::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  saved->norm = norm_.forward(ctx, in.h);
  const Tensor x = saved->norm.normed;
  Tensor y = ctx.saved.allocate(x.shape(), x.dtype(), "ffn out");
  saved->input = {.x = x,
                  .token_ids = in.token_ids,
                  .time = in.time,
                  .dropped = counters_.dropped(ctx),
                  .nans = counters_.nans(ctx)};
  saved->product = product(ctx, y, saved->input);
  counters_.count(ctx, saved->product->chosen.blocks);
  record_choices(ctx, layer_, saved->product->chosen);
  const Dropout dropped = dropout(ctx, in.time);
  if (dropped.probability > 0) ops::dropout(ctx.stream, y, dropped);
  const Tensor sum = saved->norm.sum;
  out_saved = std::move(saved);
  return {sum, y};
}

void ChoosingFfn::backward(Context& ctx, const FfnLayer::Saved& base, Tensor dh) {
  const Saved& saved = static_cast<const Saved&>(base);
  const Tensor& x = saved.norm.normed;
  const ArenaScope scope(ctx.scratch);
  const Tensor dy = dropout_backward(ctx, dh, dropout(ctx, saved.input.time));
  const Tensor dx = ctx.scratch.allocate(x.shape(), x.dtype(), "ffn dx");
  product_backward(ctx, dx, dy, saved.input, *saved.product);
  norm_.backward(ctx, dh, dx, saved.norm);
}

}  // namespace sffn
