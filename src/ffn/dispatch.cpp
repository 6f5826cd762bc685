#include "ffn/dispatch.h"

#include "kernels/ops.h"

#include <algorithm>
#include <vector>

namespace sffn {
namespace {

std::vector<int64_t> equal_counts(const Communicator& ranks, int64_t rows) {
  return std::vector<int64_t>(static_cast<size_t>(ranks.size()), rows);
}

}  // namespace

Tensor gather_expert_rows(Context& ctx, const Tensor& mine) {
  Communicator& expert = *ctx.parallel.expert;
  const int64_t N = mine.rows();
  const Tensor all = ctx.scratch.allocate({expert.size() * N, mine.cols()}, mine.dtype(), "rows of the expert ranks");
  expert.all_gather(ctx.stream, all, mine, equal_counts(expert, N));
  return all;
}

void all_gather_expert_rows(Context& ctx, Tensor all) {
  Communicator& expert = *ctx.parallel.expert;
  const int64_t N = all.rows() / expert.size();
  expert.all_gather(ctx.stream, all, all.slice(expert.rank() * N, N), equal_counts(expert, N));
}

void exchange_expert_parts(Context& ctx, Tensor recv, const Tensor& send) {
  Communicator& expert = *ctx.parallel.expert;
  const std::vector<int64_t> counts = equal_counts(expert, 1);
  expert.all_to_all(ctx.stream, recv, counts, send, counts);
}

void return_expert_rows(Context& ctx, Tensor out, const Tensor& all, const Tensor& bias) {
  const ArenaScope scope(ctx.scratch);
  const Shape shape{ctx.parallel.expert->size(), out.rows(), out.cols()};
  const Tensor parts = ctx.scratch.allocate(shape, out.dtype(), "parts of the expert ranks");
  exchange_expert_parts(ctx, parts, all.view(shape));
  ops::sum_parts(ctx.stream, out, parts, bias);
}

// visit(first, count) inside a scope of scratch; every rank makes the same visits.
template <class Visit>
void GatherDispatcher::for_each_chunk(Context& ctx, int64_t tokens, Visit&& visit) const {
  for (int64_t first = 0; first < tokens; first += share_.chunk) {
    const ArenaScope scope(ctx.scratch);
    visit(first, std::min(share_.chunk, tokens - first));
  }
}

GatherDispatcher::Arrived GatherDispatcher::bring(Context& ctx, const Tensor& x, const Selection& chosen, int64_t first,
                                                  int64_t count) const {
  Arrived arrived;
  if (x.defined()) arrived.x = gather_expert_rows(ctx, x.slice(first, count));
  const Tensor blocks = gather_expert_rows(ctx, chosen.kept.slice(first, count));
  ops::localise_blocks(ctx.stream, blocks, blocks, share_.rank * local_blocks_, local_blocks_);
  arrived.chosen = {.blocks = blocks, .kept = blocks, .weights = {}};
  if (chosen.weights.defined()) {
    arrived.chosen.weights = gather_expert_rows(ctx, chosen.weights.slice(first, count));
  }
  return arrived;
}

void GatherDispatcher::forward(Context& ctx, Tensor y, const Tensor& bias, const Tensor& x, const Selection& chosen,
                               const Forward& compute) const {
  for_each_chunk(ctx, y.rows(), [&](int64_t first, int64_t count) {
    const Arrived arrived = bring(ctx, x, chosen, first, count);
    const Tensor y_all = ctx.scratch.allocate({share_.ranks * count, y.cols()}, y.dtype(), "outputs of the blocks");
    compute(y_all, arrived);
    return_expert_rows(ctx, y.slice(first, count), y_all, bias);
  });
}

void GatherDispatcher::backward(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                                const Selection& chosen, const Backward& compute) const {
  for_each_chunk(ctx, dy.rows(), [&](int64_t first, int64_t count) {
    const int64_t all = share_.ranks * count;
    const Arrived arrived = bring(ctx, x, chosen, first, count);
    const Tensor dy_all = gather_expert_rows(ctx, dy.slice(first, count));
    Tensor dx_all, dweights_all;
    if (dx.defined()) dx_all = ctx.scratch.allocate({all, dx.cols()}, dx.dtype(), "dx of all ranks' tokens");
    if (dweights.defined()) {
      dweights_all = ctx.scratch.allocate({all, dweights.cols()}, dweights.dtype(), "dweights of all ranks' tokens");
    }
    compute(dx_all, dweights_all, dy_all, arrived);
    if (dx.defined()) return_expert_rows(ctx, dx.slice(first, count), dx_all, Tensor());
    if (dweights.defined()) return_expert_rows(ctx, dweights.slice(first, count), dweights_all, Tensor());
  });
}

}  // namespace sffn
