// The checks of every op, whatever the backend: shapes, dtypes, devices, and the numbers beside the tensors. An error
// reads "OP: TENSOR is FOUND; expected EXPECTED". Values inside tensors are not looked at: they may be on a device, or
// nowhere (meta). On the meta device attention counts its FLOPs in stream.counter(), as matrix products do
// (contract_matmul.cpp).
#include "kernels/contract_call.h"
#include "kernels/ops.h"

#include <cmath>

namespace sffn::contract {
namespace {

// Multiply-adds count twice. Causal attention is counted as executed: scores of hidden blocks are never computed, so
// the T×T square counts half.
double causal_square_flops(const AttentionShape& s) {
  const auto t = static_cast<double>(s.time);
  return t * t / 2 * static_cast<double>(s.head_dim * s.heads * s.batch);
}

void check_attention(const Call& call, const Tensor& qkv, const AttentionShape& s) {
  call.floating("qkv", qkv);
  call.require(s.batch >= 0 && s.time >= 0 && s.heads >= 1 && s.kv_heads >= 1 && s.head_dim >= 1, "batch ", s.batch,
               ", time ", s.time, ", heads ", s.heads, ", kv_heads ", s.kv_heads, ", head_dim ", s.head_dim,
               "; expected heads, kv_heads and head_dim of at least 1");
  call.require(s.heads % s.kv_heads == 0, s.heads, " heads cannot share ", s.kv_heads,
               " key/value heads; expected a divisor");
  call.exact("qkv", qkv, qkv.dtype(), {s.tokens(), s.qkv_width()});
}

void check_rope(const Call& call, const char* name, const Tensor& qkv, const Tensor& positions, const AttentionShape& s,
                double theta) {
  call.floating(name, qkv);
  call.require(s.heads >= 1 && s.kv_heads >= 1, "heads are ", s.heads, " and kv_heads ", s.kv_heads,
               "; expected at least 1");
  call.require(s.head_dim >= 2 && s.head_dim % 2 == 0, "head_dim is ", s.head_dim,
               "; expected an even number of at least 2");
  call.require(theta > 0, "theta is ", theta, "; expected a positive number");
  call.exact(name, qkv, qkv.dtype(), {s.tokens(), s.qkv_width()});
  call.exact("positions", positions, DType::kI32, {s.tokens()});
}

}  // namespace

void fill_zero(Stream& stream, Tensor x) { Call(stream, __func__).here("x", x); }

void copy(Stream& stream, Tensor y, const Tensor& x) {
  const Call call(stream, __func__);
  if (x.dtype() == DType::kI32) {
    call.here("x", x);
    call.exact("y", y, DType::kI32, y.shape());
  } else {
    call.floating("x", x);
    call.floating("y", y);
  }
  if (y.numel() != x.numel()) call.refuse("y", y, cat(x.numel(), " elements, as x ", x.shape().str(), " has"));
}

void add(Stream& stream, Tensor y, const Tensor& x) {
  const Call call(stream, __func__);
  call.floating("x", x);
  call.floating("y", y);
  if (y.shape() != x.shape()) call.refuse("y", y, cat("the shape of x, ", x.shape().str()));
}

void sum(Stream& stream, Tensor out, const Tensor& x) {
  const Call call(stream, __func__);
  call.floating("x", x);
  call.exact("out", out, x.dtype() == DType::kC128 ? DType::kC128 : DType::kF64, {1});
}

void sum_of_squares(Stream& stream, Tensor partial, const Tensor& x, int64_t chunk) {
  const Call call(stream, __func__);
  call.floating("x", x);
  if (x.dtype() == DType::kC128) call.refuse("x", x, "a real dtype");
  call.require(chunk >= 1, "chunk is ", chunk, "; expected at least 1");
  call.exact("partial", partial, DType::kF64, {(x.numel() + chunk - 1) / chunk});
}

void random_normal(Stream& stream, Tensor x, RandomKey, int64_t first, double std, bool) {
  const Call call(stream, __func__);
  call.floating("x", x);
  call.require(first >= 0, "first is ", first, "; expected at least 0");
  call.require(std >= 0 && std::isfinite(std), "std is ", std, "; expected a finite number of at least 0");
}

void column_sum(Stream& stream, Tensor out, const Tensor& x) {
  const Call call(stream, __func__);
  call.exact("out", out, accumulate_type(x.dtype()), {call.columns("x", x)});
}

void embedding_forward(Stream& stream, Tensor out, const Tensor& tokens, const Tensor& ids,
                       const Tensor& positions_table, const Tensor& positions) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("out", out);
  call.exact("tokens", tokens, out.dtype(), {call.rows("tokens", tokens), D});
  call.exact("ids", ids, DType::kI32, {N});
  if (!positions_table.defined()) return;
  call.exact("positions_table", positions_table, out.dtype(), {call.rows("positions_table", positions_table), D});
  call.exact("positions", positions, DType::kI32, {N});
}

void embedding_backward(Stream& stream, Tensor dtokens, Tensor dpositions, const Tensor& dout, const Tensor& ids,
                        const Tensor& positions) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("dout", dout);
  const DType accumulate = accumulate_type(dout.dtype());
  call.exact("dtokens", dtokens, accumulate, {call.rows("dtokens", dtokens), D});
  call.exact("ids", ids, DType::kI32, {N});
  if (!dpositions.defined()) return;
  call.exact("dpositions", dpositions, accumulate, {call.rows("dpositions", dpositions), D});
  call.exact("positions", positions, DType::kI32, {N});
}

void add_norm_forward(Stream& stream, Tensor sum_out, Tensor y, Tensor mean, Tensor rstd, const Tensor& sum,
                      const Tensor& pending, const Tensor& weight, const Tensor& bias, double eps) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("sum", sum);
  const DType accumulate = accumulate_type(sum.dtype());
  call.exact_or_absent("pending", pending, sum.dtype(), {N, D});
  if (pending.defined() || sum_out.defined()) call.exact("sum_out", sum_out, sum.dtype(), {N, D});
  call.exact("y", y, sum.dtype(), {N, D});
  call.exact_or_absent("mean", mean, accumulate, {N});
  call.exact("rstd", rstd, accumulate, {N});
  call.exact("weight", weight, accumulate, {D});
  if (mean.defined()) call.exact("bias", bias, accumulate, {D});
  if (!mean.defined() && bias.defined()) call.refuse("bias", bias, "absent, as mean is (RMSNorm)");
  call.require(eps >= 0, "eps is ", eps, "; expected at least 0");
}

void add_norm_backward(Stream& stream, Tensor dh, Tensor dweight, Tensor dbias, const Tensor& dy, const Tensor& sum,
                       const Tensor& mean, const Tensor& rstd, const Tensor& weight) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("dh", dh);
  const DType accumulate = accumulate_type(dh.dtype());
  call.exact("dy", dy, dh.dtype(), {N, D});
  call.exact("sum", sum, dh.dtype(), {N, D});
  call.exact_or_absent("mean", mean, accumulate, {N});
  call.exact("rstd", rstd, accumulate, {N});
  call.exact("weight", weight, accumulate, {D});
  call.exact("dweight", dweight, accumulate, {D});
  if (mean.defined()) call.exact("dbias", dbias, accumulate, {D});
  if (!mean.defined() && dbias.defined()) call.refuse("dbias", dbias, "absent, as mean is (RMSNorm)");
}

void activation_forward(Stream& stream, Tensor h, const Tensor& z, const Tensor& gate, Activation) {
  const Call call(stream, __func__);
  call.floating("z", z);
  call.same("h", h, z);
  if (gate.defined()) call.same("gate", gate, z);
}

void activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dh, const Tensor& z, const Tensor& gate,
                         Activation) {
  const Call call(stream, __func__);
  call.floating("z", z);
  call.same("dz", dz, z);
  call.same("dh", dh, z);
  if (gate.defined()) {
    call.same("gate", gate, z);
    call.same("dgate", dgate, z);
  } else if (dgate.defined()) {
    call.refuse("dgate", dgate, "absent, as gate is");
  }
}

void rope_forward(Stream& stream, Tensor qkv, const Tensor& positions, const AttentionShape& shape, double theta) {
  check_rope(Call(stream, __func__), "qkv", qkv, positions, shape, theta);
}

void rope_backward(Stream& stream, Tensor dqkv, const Tensor& positions, const AttentionShape& shape, double theta) {
  check_rope(Call(stream, __func__), "dqkv", dqkv, positions, shape, theta);
}

void attention_forward(Stream& stream, Tensor out, Tensor lse, const Tensor& qkv, const Tensor& segment_start,
                       const AttentionShape& shape, const Dropout& dropout) {
  const Call call(stream, __func__);
  check_attention(call, qkv, shape);
  call.exact("out", out, qkv.dtype(), {shape.tokens(), shape.out_width()});
  call.exact("lse", lse, accumulate_type(qkv.dtype()), {shape.batch, shape.heads, shape.time});
  call.exact_or_absent("segment_start", segment_start, DType::kI32, {shape.tokens()});
  call.dropout(dropout);
  if (stream.is_meta()) stream.counter().attention_flops += 4 * causal_square_flops(shape);  // q kᵀ, P v
}

void attention_backward(Stream& stream, Tensor dqkv, const Tensor& dout, const Tensor& out, const Tensor& lse,
                        const Tensor& qkv, const Tensor& segment_start, const AttentionShape& shape,
                        const Dropout& dropout) {
  const Call call(stream, __func__);
  check_attention(call, qkv, shape);
  call.same("dqkv", dqkv, qkv);
  call.exact("out", out, qkv.dtype(), {shape.tokens(), shape.out_width()});
  call.same("dout", dout, out);
  call.exact("lse", lse, accumulate_type(qkv.dtype()), {shape.batch, shape.heads, shape.time});
  call.exact_or_absent("segment_start", segment_start, DType::kI32, {shape.tokens()});
  call.dropout(dropout);
  // q kᵀ again, dout vᵀ, dS k, dSᵀ q, Pᵀ dout
  if (stream.is_meta()) stream.counter().attention_flops += 10 * causal_square_flops(shape);
}

void attention_cached(Stream& stream, Tensor out, Tensor cache, const Tensor& qkv, const AttentionShape& shape,
                      int64_t first) {
  const Call call(stream, __func__);
  check_attention(call, qkv, shape);
  call.exact("out", out, qkv.dtype(), {shape.tokens(), shape.out_width()});
  call.require(cache.defined() && cache.shape().rank() == 3 && first >= 0 && first + shape.time <= cache.shape()[1],
               "cache is ", describe(cache), " with ", first, " tokens in it and ", shape.time, " new; expected room");
  call.exact("cache", cache, qkv.dtype(), {shape.batch, cache.shape()[1], 2 * shape.kv_heads * shape.head_dim});
  if (stream.is_meta()) {
    const double seen = static_cast<double>(shape.time) * (static_cast<double>(first) + (shape.time + 1) / 2.0);
    stream.counter().attention_flops += 4 * seen * static_cast<double>(shape.batch * shape.out_width());
  }
}

void cross_entropy(Stream& stream, Tensor losses, Tensor logits, const Tensor& targets, int64_t vocab, double, bool) {
  const Call call(stream, __func__);
  const auto [N, Vp] = call.matrix("logits", logits);
  call.exact("losses", losses, accumulate_type(logits.dtype()), {N});
  call.exact("targets", targets, DType::kI32, {N});
  call.require(vocab >= 1 && vocab <= Vp, "vocab is ", vocab, "; expected 1 to ", Vp, ", the columns of logits");
}

void dropout(Stream& stream, Tensor x, const Dropout& dropout) {
  const Call call(stream, __func__);
  call.floating("x", x);
  call.dropout(dropout);
}

void tree_sum(Stream& stream, Tensor out, const Tensor& x) {
  const Call call(stream, __func__);
  const auto [leaves, columns] = call.matrix("x", x);
  call.exact("x", x, DType::kF64, {leaves, columns});
  call.exact("out", out, DType::kF64, {columns});
}

void start_clock(Stream& stream, Tensor clock) { Call(stream, __func__).exact("clock", clock, DType::kF64, {2}); }
void stop_clock(Stream& stream, Tensor clock) { Call(stream, __func__).exact("clock", clock, DType::kF64, {2}); }

void update_numbers(Stream& stream, Tensor numbers, const Tensor& sums, const Tensor& squares, double tokens,
                    double leaves, double) {
  const Call call(stream, __func__);
  call.exact("numbers", numbers, DType::kF64, {update::kCount});
  call.here("sums", sums);
  call.exact("sums", sums, DType::kF64, {std::max<int64_t>(sums.numel(), 1)});
  call.exact("squares", squares, DType::kF64, {1});
  call.require(tokens >= 1 && leaves >= 1, "tokens are ", tokens, " and leaves ", leaves, "; expected at least 1");
}

void adamw(Stream& stream, Tensor master, Tensor rounded, Tensor m, Tensor v, const Tensor& grad, const Tensor& numbers,
           const AdamWOptions& options) {
  const Call call(stream, __func__);
  call.floating("master", master);
  if (master.dtype() != DType::kF32 && master.dtype() != DType::kF64) call.refuse("master", master, "f32 or f64");
  call.same("m", m, master);
  call.same("v", v, master);
  call.same("grad", grad, master);
  call.exact_or_absent("rounded", rounded, DType::kBF16, master.shape());
  call.exact("numbers", numbers, DType::kF64, {update::kCount});
  call.require(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, "beta1 is ",
               options.beta1, " and beta2 is ", options.beta2, "; expected [0, 1)");
}

}  // namespace sffn::contract
