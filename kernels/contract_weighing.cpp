// The checks of the ops that weigh chosen blocks and balance the choices.
#include "kernels/contract_call.h"
#include "kernels/ops.h"

#include <cmath>

namespace sffn::contract {
namespace {

// A matrix of scores, logits or probabilities: its rows and columns.
std::pair<int64_t, int64_t> scores_matrix(const Call& call, const char* name, const Tensor& t) {
  call.accumulator(name, t);
  const auto [rows, columns] = call.matrix(name, t);
  if (columns < 1) call.refuse(name, t, "at least one column");
  return {rows, columns};
}

// blocks is [rows, b].
void check_blocks(const Call& call, const Tensor& blocks, int64_t rows) {
  call.here("blocks", blocks);
  if (blocks.shape().rank() != 2) call.refuse("blocks", blocks, cat("i32 [", rows, ", b]"));
  call.exact("blocks", blocks, DType::kI32, {rows, blocks.cols()});
}

void check_groups(const Call& call, int64_t groups, int64_t rows) {
  call.require(groups >= 1 && rows % groups == 0, rows, " tokens cannot be cut into ", groups,
               " equal groups; expected a divisor");
}

void check_finite(const Call& call, const char* name, double value) {
  call.require(std::isfinite(value), name, " is ", value, "; expected a finite number");
}

}  // namespace

void gate_forward(Stream& stream, Tensor weights, const Tensor& logits, const Tensor& blocks, Gate) {
  const Call call(stream, __func__);
  check_blocks(call, blocks, scores_matrix(call, "logits", logits).first);
  call.exact("weights", weights, logits.dtype(), blocks.shape());
}

void gate_backward(Stream& stream, Tensor dlogits, const Tensor& dweights, const Tensor& weights, const Tensor& logits,
                   const Tensor& blocks, Gate) {
  const Call call(stream, __func__);
  check_blocks(call, blocks, scores_matrix(call, "logits", logits).first);
  call.same("dlogits", dlogits, logits);
  call.exact("dweights", dweights, logits.dtype(), blocks.shape());
  call.exact("weights", weights, logits.dtype(), blocks.shape());
}

void softmax_rows_forward(Stream& stream, Tensor p, Tensor lse, const Tensor& scores) {
  const Call call(stream, __func__);
  const int64_t rows = scores_matrix(call, "scores", scores).first;
  call.same("p", p, scores);
  call.exact_or_absent("lse", lse, scores.dtype(), {rows});
}

void softmax_rows_backward(Stream& stream, Tensor dscores, const Tensor& p, const Tensor& dp, const Tensor& lse,
                           double lse_scale) {
  const Call call(stream, __func__);
  const auto [rows, columns] = scores_matrix(call, "p", p);
  call.same("dscores", dscores, p);
  call.exact_or_absent("lse", lse, p.dtype(), {rows});
  check_finite(call, "lse_scale", lse_scale);
  if (!dp.defined()) return;
  const int64_t groups = call.rows("dp", dp);
  call.exact("dp", dp, p.dtype(), {groups, columns});
  check_groups(call, groups, rows);
}

void group_sum(Stream& stream, Tensor out, const Tensor& x) {
  const Call call(stream, __func__);
  const auto [rows, columns] = scores_matrix(call, "x", x);
  const int64_t groups = call.rows("out", out);
  call.exact("out", out, x.dtype(), {groups, columns});
  check_groups(call, groups, rows);
}

void mean_square(Stream& stream, Tensor loss, const Tensor& x, double weight) {
  const Call call(stream, __func__);
  call.accumulator("x", x);
  call.exact("loss", loss, x.dtype(), {1});
  check_finite(call, "weight", weight);
}

void block_weight_sums(Stream& stream, Tensor sums, const Tensor& weights, const Tensor& blocks) {
  const Call call(stream, __func__);
  const int64_t rows = scores_matrix(call, "weights", weights).first;
  call.exact("blocks", blocks, DType::kI32, weights.shape());
  const auto [groups, columns] = scores_matrix(call, "sums", sums);
  call.exact("sums", sums, weights.dtype(), {groups, columns});
  check_groups(call, groups, rows);
}

void add_block_values(Stream& stream, Tensor out, const Tensor& per_block, const Tensor& blocks) {
  const Call call(stream, __func__);
  const int64_t rows = scores_matrix(call, "out", out).first;
  call.exact("blocks", blocks, DType::kI32, out.shape());
  const auto [groups, columns] = scores_matrix(call, "per_block", per_block);
  call.exact("per_block", per_block, out.dtype(), {groups, columns});
  check_groups(call, groups, rows);
}

void balance_loss(Stream& stream, Tensor loss, Tensor dsums, const Tensor& sums, const Tensor& counts, BalanceLoss kind,
                  double tokens, double weight, double gradient_weight) {
  const Call call(stream, __func__);
  const int64_t groups = scores_matrix(call, "sums", sums).first;
  call.require(groups >= 1, "there is no group of tokens; expected at least 1");
  call.exact("loss", loss, sums.dtype(), {1});
  call.same("dsums", dsums, sums);
  if (kind == BalanceLoss::kSwitch) {
    call.exact("counts", counts, DType::kI32, sums.shape());
  } else if (counts.defined()) {
    call.refuse("counts", counts, "nothing: only the switch loss looks at them");
  }
  call.require(tokens >= 0 && std::isfinite(tokens), "tokens are ", tokens, "; expected a finite number of at least 0");
  check_finite(call, "weight", weight);
  check_finite(call, "gradient_weight", gradient_weight);
}

void update_balance_bias(Stream& stream, Tensor bias, const Tensor& load, const Tensor& numbers, double rate) {
  const Call call(stream, __func__);
  call.accumulator("bias", bias);
  if (bias.shape().rank() != 1 || bias.numel() < 1) call.refuse("bias", bias, "one dimension of at least 1");
  call.exact("load", load, DType::kF64, bias.shape());
  call.exact("numbers", numbers, DType::kF64, {update::kCount});
  check_finite(call, "rate", rate);
}

void noisy_scores_forward(Stream& stream, Tensor noisy, const Tensor& logits, const Tensor& spread,
                          const Draws& draws) {
  const Call call(stream, __func__);
  scores_matrix(call, "logits", logits);
  call.same("noisy", noisy, logits);
  call.same("spread", spread, logits);
  call.draws(draws);
}

void noisy_scores_backward(Stream& stream, Tensor dlogits, Tensor dspread, const Tensor& dnoisy, const Tensor& spread,
                           const Draws& draws) {
  const Call call(stream, __func__);
  scores_matrix(call, "dnoisy", dnoisy);
  call.same("dlogits", dlogits, dnoisy);
  call.same("dspread", dspread, dnoisy);
  call.same("spread", spread, dnoisy);
  call.draws(draws);
}

void jitter(Stream& stream, Tensor x, double eps, const Draws& draws) {
  const Call call(stream, __func__);
  call.floating("x", x);
  call.require(eps >= 0 && eps < 1, "eps is ", eps, "; expected [0, 1)");
  call.draws(draws);
}

void mask_scores(Stream& stream, Tensor scores, double value, const Dropout& dropout) {
  const Call call(stream, __func__);
  call.accumulator("scores", scores);
  call.require(!std::isnan(value), "value is NaN; expected a number");
  call.dropout(dropout);
}

void drop_choices(Stream& stream, Tensor out, const Tensor& blocks, int64_t block_count, const Dropout& dropout) {
  const Call call(stream, __func__);
  check_blocks(call, blocks, blocks.shape().rank() == 2 ? blocks.rows() : 0);
  call.exact("out", out, DType::kI32, blocks.shape());
  call.require(block_count >= 1, "block_count is ", block_count, "; expected at least 1");
  call.dropout(dropout);
}

void sigmoid_forward(Stream& stream, Tensor y, const Tensor& x) {
  const Call call(stream, __func__);
  call.accumulator("x", x);
  call.same("y", y, x);
}

void sigmoid_backward(Stream& stream, Tensor dx, const Tensor& dy, const Tensor& x) {
  const Call call(stream, __func__);
  call.accumulator("x", x);
  call.same("dy", dy, x);
  call.same("dx", dx, x);
}

void sinkhorn(Stream& stream, Tensor out, const Tensor& logits, int64_t groups, int64_t iterations, Sinkhorn) {
  const Call call(stream, __func__);
  const int64_t rows = scores_matrix(call, "logits", logits).first;
  call.same("out", out, logits);
  call.require(out.numel() == 0 || stream.is_meta() || out.raw() != logits.raw(), "out is the memory of logits");
  check_groups(call, groups, rows);
  call.require(iterations >= 1, "iterations are ", iterations, "; expected at least 1");
}

void auction(Stream& stream, Tensor blocks, const Tensor& logits, int64_t groups, double epsilon, int64_t rounds) {
  const Call call(stream, __func__);
  const int64_t rows = scores_matrix(call, "logits", logits).first;
  call.exact("blocks", blocks, DType::kI32, {rows, 1});
  check_groups(call, groups, rows);
  call.require(epsilon > 0 && std::isfinite(epsilon), "epsilon is ", epsilon, "; expected a positive number");
  call.require(rounds >= 1, "rounds are ", rounds, "; expected at least 1");
}

}  // namespace sffn::contract
