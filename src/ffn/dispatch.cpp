#include "ffn/dispatch.h"

#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace sffn {
namespace {

std::vector<int64_t> equal_counts(const Communicator& ranks, int64_t rows) {
  return std::vector<int64_t>(static_cast<size_t>(ranks.size()), rows);
}

int64_t total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

class GatherTrip final : public TokenTrip {
 public:
  GatherTrip(const ExpertShare& share, int64_t tokens) : arrived_(share.ranks * tokens) {}
  int64_t arrived() const override { return arrived_; }
  Tensor bring(Context& ctx, const Tensor& mine) const override { return gather_expert_rows(ctx, mine); }
  void give_back(Context& ctx, Tensor out, const Tensor& here, const Tensor& bias) const override {
    return_expert_rows(ctx, out, here, bias);
  }

 private:
  int64_t arrived_;
};

// Rows are sorted by the rank they go to, then by token: the routing of blocks (kernels/routing.h) with ranks for
// blocks. On the meta device every token goes to every rank, which is the most that scratch must hold.
class AllToAllTrip final : public TokenTrip {
 public:
  // Its tensors are in ctx.scratch.
  AllToAllTrip(Context& ctx, const ExpertShare& share, const Tensor& blocks, int64_t blocks_of_rank) : R_(share.ranks) {
    const int64_t n = blocks.rows();
    const auto indices = [&](Shape shape, const char* what) { return ctx.scratch.allocate(shape, DType::kI32, what); };
    const Tensor ranks = indices({n, R_}, "ranks of the tokens"), counts = indices({1, R_}, "rows to each rank");
    routing_ = {.order = indices({n * R_}, "order by rank"),
                .inverse = indices({n * R_}, "row of each rank"),
                .offsets = indices({R_ + 1}, "rows by rank"),
                .blocks = R_,
                .per_token = R_,
                .chunk = n};
    ops::ranks_of_blocks(ctx.stream, ranks, blocks, blocks_of_rank);
    ops::count_blocks(ctx.stream, counts, ranks);
    ops::exclusive_scan(ctx.stream, routing_.offsets, counts.view({R_}));
    ops::sort_by_block(ctx.stream, routing_, ranks);
    agree_on_counts(ctx, counts, n);
  }
  int64_t arrived() const override { return total(receive_); }

  Tensor bring(Context& ctx, const Tensor& mine) const override {
    const Tensor here = ctx.scratch.allocate({arrived(), mine.cols()}, mine.dtype(), "rows that arrived");
    const ArenaScope scope(ctx.scratch);
    const int64_t rows = total(send_);
    const Tensor sent = ctx.scratch.allocate({rows, mine.cols()}, mine.dtype(), "rows that leave");
    ops::gather_tokens(ctx.stream, sent, mine, routing_.order.slice(0, rows), R_);
    ctx.parallel.expert->all_to_all(ctx.stream, here, receive_, sent, send_);
    return here;
  }
  void give_back(Context& ctx, Tensor out, const Tensor& here, const Tensor& bias) const override {
    const ArenaScope scope(ctx.scratch);
    const Tensor back = ctx.scratch.allocate({total(send_), out.cols()}, out.dtype(), "rows that came back");
    ctx.parallel.expert->all_to_all(ctx.stream, back, send_, here, receive_);
    ops::combine_tokens(ctx.stream, out, back, routing_.inverse.view({out.rows(), R_}), bias);
  }

 private:
  void agree_on_counts(Context& ctx, const Tensor& counts, int64_t tokens) {
    Communicator& expert = *ctx.parallel.expert;
    send_ = receive_ = equal_counts(expert, tokens);
    if (ctx.stream.is_meta()) return;
    std::vector<int32_t> mine(static_cast<size_t>(R_));
    ctx.stream.copy_to_host(mine.data(), counts);
    ctx.stream.synchronize();
    const std::vector<int32_t> all = expert.gather_lists(mine);
    for (size_t r = 0; r < mine.size(); ++r) {
      send_[r] = mine[r];
      receive_[r] = all[r * mine.size() + static_cast<size_t>(expert.rank())];
    }
  }

  int64_t R_;
  BlockRouting routing_;
  std::vector<int64_t> send_, receive_;  // rows to and from each rank
};

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

TokenBytes TokenBytes::forward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes) {
  return {.there = static_cast<double>(W * value_bytes),
          .back = static_cast<double>(D * value_bytes),
          .list = static_cast<double>(b * (weighs ? 8 : 4))};
}

TokenBytes TokenBytes::backward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes) {
  return {.there = static_cast<double>((W + D) * value_bytes),
          .back = static_cast<double>(W * value_bytes + (weighs ? 4 * b : 0)),
          .list = static_cast<double>(b * (weighs ? 8 : 4))};
}

// Of b choices a token's lie on R(1 - (1 - 1/R)^b) ranks, of which one in R is its own.
DispatchVolume dispatch_volume(int64_t ranks, int64_t chosen, const TokenBytes& token) {
  const auto R = static_cast<double>(ranks), b = static_cast<double>(chosen);
  const double away = (R - 1) / R, hit = R * (1 - std::pow(1 - 1 / R, b)), one = token.there + token.back + token.list;
  return {.gather = (R - 1) * one,
          .all_to_all = hit * away * one,
          .naive = b * away * (token.there + token.back) + away * token.list};
}

Dispatch choose_dispatch(Dispatch wanted, const DispatchVolume& volume, bool is_cuda) {
  if (wanted != Dispatch::kAuto) return wanted;
  constexpr double kWorthWaiting = 0.9;
  return !is_cuda && volume.all_to_all < kWorthWaiting * volume.gather ? Dispatch::kAllToAll : Dispatch::kGather;
}

template <class Visit>
void TokenDispatcher::for_each_chunk(Context& ctx, int64_t tokens, const Tensor& x, int64_t width_out, DType dtype,
                                     const Selection& chosen, Visit&& visit) const {
  const int64_t width_in = x.defined() ? x.cols() : 0;
  const TokenBytes token = TokenBytes::forward(width_in, width_out, chosen.kept.cols(), chosen.weights.defined(),
                                               static_cast<int64_t>(size_of(dtype)));
  const DispatchVolume volume = dispatch_volume(share_.ranks, chosen.kept.cols(), token);
  const Dispatch dispatch = choose_dispatch(share_.dispatch, volume, ctx.stream.is_cuda());
  for (int64_t first = 0; first < tokens; first += share_.chunk) {
    const ArenaScope scope(ctx.scratch);
    const int64_t count = std::min(share_.chunk, tokens - first);
    const Tensor kept = chosen.kept.slice(first, count);
    std::unique_ptr<TokenTrip> trip;
    if (dispatch == Dispatch::kGather) {
      trip = std::make_unique<GatherTrip>(share_, count);
    } else {
      trip = std::make_unique<AllToAllTrip>(ctx, share_, kept, local_blocks_);
    }
    Arrived arrived;
    if (x.defined()) arrived.x = trip->bring(ctx, x.slice(first, count));
    const Tensor blocks = trip->bring(ctx, kept);
    ops::localise_blocks(ctx.stream, blocks, blocks, share_.rank * local_blocks_, local_blocks_);
    arrived.chosen = {.blocks = blocks, .kept = blocks, .weights = {}};
    if (chosen.weights.defined()) arrived.chosen.weights = trip->bring(ctx, chosen.weights.slice(first, count));
    visit(*trip, arrived, first, count);
  }
}

void TokenDispatcher::forward(Context& ctx, Tensor y, const Tensor& bias, const Tensor& x, const Selection& chosen,
                              const Forward& compute) const {
  const auto visit = [&](const TokenTrip& trip, const Arrived& arrived, int64_t first, int64_t count) {
    const Tensor y_here = ctx.scratch.allocate({trip.arrived(), y.cols()}, y.dtype(), "outputs of the blocks");
    compute(y_here, arrived);
    trip.give_back(ctx, y.slice(first, count), y_here, bias);
  };
  for_each_chunk(ctx, y.rows(), x, y.cols(), y.dtype(), chosen, visit);
}

void TokenDispatcher::backward(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                               const Selection& chosen, const Backward& compute) const {
  const auto visit = [&](const TokenTrip& trip, const Arrived& arrived, int64_t first, int64_t count) {
    const Tensor dy_here = trip.bring(ctx, dy.slice(first, count));
    const auto allocate = [&](const Tensor& like, const char* what) {
      if (!like.defined()) return Tensor();
      return ctx.scratch.allocate({trip.arrived(), like.cols()}, like.dtype(), what);
    };
    const Tensor dx_here = allocate(dx, "dx of the tokens here");
    const Tensor dweights_here = allocate(dweights, "dweights of the tokens here");
    compute(dx_here, dweights_here, dy_here, arrived);
    if (dx.defined()) trip.give_back(ctx, dx.slice(first, count), dx_here, Tensor());
    if (dweights.defined()) trip.give_back(ctx, dweights.slice(first, count), dweights_here, Tensor());
  };
  for_each_chunk(ctx, dy.rows(), x, dy.cols(), dy.dtype(), chosen, visit);
}

}  // namespace sffn
