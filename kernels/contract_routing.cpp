// The checks of the ops that choose blocks and put the choices in order.
#include "kernels/contract_call.h"
#include "kernels/ops.h"

#include <limits>

namespace sffn::contract {
namespace {

// A real or complex matrix of scores, never bf16.
std::pair<int64_t, int64_t> scores_of(const Call& call, const char* name, const Tensor& t) {
  const auto shape = call.matrix(name, t);
  if (t.dtype() == DType::kBF16) call.refuse(name, t, "f32, f64 or c128: a choice among rounded scores ties");
  return shape;
}

// Rows of keys [M,D] a block, M = B·G.
int64_t cells_per_block(const Call& call, int64_t M, int64_t B) {
  call.require(B >= 1 && M >= 1 && M % B == 0, M, " cells in ", B, " blocks; expected a whole number of cells a block");
  return M / B;
}

// blocks [N,b] i32, N·b small enough for the i32 of BlockRouting.
std::pair<int64_t, int64_t> choices_of(const Call& call, const Tensor& blocks) {
  call.here("blocks", blocks);
  if (blocks.dtype() != DType::kI32 || blocks.shape().rank() != 2) call.refuse("blocks", blocks, "i32 [N, b]");
  call.require(blocks.numel() <= std::numeric_limits<int32_t>::max(), "blocks has ", blocks.numel(),
               " choices; expected fewer than 2^31");
  return {blocks.shape()[0], blocks.shape()[1]};
}

void check_groups(const Call& call, int64_t N, int64_t groups) {
  call.require(groups >= 1 && N % groups == 0, N, " tokens in ", groups, " groups; expected a divisor");
}

void check_block_scores(const Call& call, const char* name, const Tensor& scores, const Tensor& cells,
                        BlockAggregate aggregate) {
  const auto [N, M] = scores_of(call, "cells", cells);
  const int64_t B = call.columns(name, scores);
  call.exact(name, scores, cells.dtype(), {N, B});
  cells_per_block(call, M, B);
  call.require(aggregate <= BlockAggregate::kMeanAbs,
               "the aggregate is one of keys; expected mean, min, max or mean_abs");
}

}  // namespace

void block_aggregate_forward(Stream& stream, Tensor out, const Tensor& keys, const Tensor& values,
                             BlockAggregate aggregate) {
  const Call call(stream, __func__);
  const auto [M, D] = call.matrix("keys", keys);
  const int64_t B = call.rows("out", out);
  call.exact("out", out, accumulate_type(keys.dtype()), {B, D});
  cells_per_block(call, M, B);
  if (aggregate == BlockAggregate::kValueWeighted) {
    call.exact("values", values, keys.dtype(), {M, D});
  } else if (values.defined()) {
    call.refuse("values", values, "absent: the aggregate is of the keys alone");
  }
}

void block_aggregate_backward(Stream& stream, Tensor dkeys, const Tensor& dout, const Tensor& keys, BlockAggregate) {
  const Call call(stream, __func__);
  const auto [M, D] = call.matrix("keys", keys);
  const DType accumulate = accumulate_type(keys.dtype());
  const int64_t B = call.rows("dout", dout);
  call.exact("dout", dout, accumulate, {B, D});
  call.exact("dkeys", dkeys, accumulate, {M, D});
  cells_per_block(call, M, B);
}

void block_scores_forward(Stream& stream, Tensor scores, const Tensor& cells, BlockAggregate aggregate) {
  const Call call(stream, __func__);
  check_block_scores(call, "scores", scores, cells, aggregate);
}

void block_scores_backward(Stream& stream, Tensor dcells, const Tensor& dscores, const Tensor& cells,
                           BlockAggregate aggregate) {
  const Call call(stream, __func__);
  check_block_scores(call, "dscores", dscores, cells, aggregate);
  call.same("dcells", dcells, cells);
}

void top_b(Stream& stream, Tensor blocks, Tensor nans, const Tensor& scores, const Tensor& bias) {
  const Call call(stream, __func__);
  const auto [N, B] = scores_of(call, "scores", scores);
  const int64_t b = choices_of(call, blocks).second;
  call.require(b >= 1 && b <= B, b, " of ", B, " blocks; expected 1 to ", B);
  call.exact("blocks", blocks, DType::kI32, {N, b});
  call.exact_or_absent("nans", nans, DType::kF64, {1});
  call.exact_or_absent("bias", bias, scores.dtype(), {B});
}

void hash_blocks(Stream& stream, Tensor blocks, const Tensor& ids, uint64_t, int64_t, int64_t block_count) {
  const Call call(stream, __func__);
  const auto [N, b] = choices_of(call, blocks);
  call.exact("ids", ids, DType::kI32, {N});
  call.require(b >= 1 && b <= block_count && block_count <= std::numeric_limits<int32_t>::max(), b, " of ", block_count,
               " blocks; expected 1 to all of them, and fewer than 2^31");
}

void lookup_blocks(Stream& stream, Tensor blocks, const Tensor& ids, const Tensor& table) {
  const Call call(stream, __func__);
  call.here("table", table);
  if (table.dtype() != DType::kI32 || table.shape().rank() != 1) call.refuse("table", table, "i32 [V]");
  call.here("blocks", blocks);
  if (blocks.dtype() != DType::kI32 || blocks.shape().rank() != 1) call.refuse("blocks", blocks, "i32 [N]");
  call.exact("ids", ids, DType::kI32, blocks.shape());
}

void count_blocks(Stream& stream, Tensor counts, const Tensor& blocks) {
  const Call call(stream, __func__);
  const int64_t N = choices_of(call, blocks).first;
  call.here("counts", counts);
  if (counts.dtype() != DType::kI32 || counts.shape().rank() != 2) call.refuse("counts", counts, "i32 [S, B]");
  check_groups(call, N, counts.shape()[0]);
}

void accumulate_counts(Stream& stream, Tensor total, const Tensor& counts) {
  const Call call(stream, __func__);
  call.here("counts", counts);
  if (counts.dtype() != DType::kI32 || counts.shape().rank() != 2) call.refuse("counts", counts, "i32 [S, B]");
  call.exact("total", total, DType::kF64, {counts.shape()[1]});
}

void limit_capacity(Stream& stream, Tensor blocks, Tensor dropped, const Tensor& taken, int64_t groups,
                    int64_t block_count, int64_t capacity) {
  const Call call(stream, __func__);
  const int64_t N = choices_of(call, blocks).first;
  check_groups(call, N, groups);
  call.require(block_count >= 1 && capacity >= 0, "block_count is ", block_count, " and capacity ", capacity,
               "; expected at least 1 and 0");
  call.exact_or_absent("dropped", dropped, DType::kF64, {1});
  call.exact_or_absent("taken", taken, DType::kI32, {groups, block_count});
}

void exclusive_scan(Stream& stream, Tensor offsets, const Tensor& counts) {
  const Call call(stream, __func__);
  call.here("counts", counts);
  if (counts.dtype() != DType::kI32) call.refuse("counts", counts, "i32");
  call.exact("offsets", offsets, DType::kI32, {counts.numel() + 1});
}

void sort_by_block(Stream& stream, const BlockRouting& routing, const Tensor& blocks) {
  const Call call(stream, __func__);
  const auto [N, b] = choices_of(call, blocks);
  call.routing(routing, N);
  call.require(b == routing.per_token, "blocks has ", b, " choices a token; expected ", routing.per_token,
               ", as the routing has");
}

}  // namespace sffn::contract
