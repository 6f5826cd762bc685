#include "ffn/dispatch.h"

#include "ffn/token_route.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>
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

namespace {

// The chunks of one pass. Legend: a lane is the memory of one chunk under way; two serve, because a chunk sets out when
// the blocks have done with the one before the last. That one's route is needed until its results are home: three
// routes.
class Pipeline {
 public:
  // What the blocks need of the tokens; absent parts do not travel.
  struct There {
    Tensor x, dy, kept, weights;
  };
  // What comes back: out = Σ_r of the ranks' rows, + bias.
  struct Back {
    Tensor out, bias;
    const char* what;
  };
  // here [N', C]: of each Back what to fill in.
  using Work = std::function<void(std::span<const Tensor> here, const Tensor& dy, const TokenDispatcher::Arrived&)>;

  Pipeline(Context& ctx, const ExpertShare& share, int64_t local_blocks, Dispatch dispatch, There there,
           std::vector<Back> back)
      : ctx_(ctx),
        share_(share),
        local_blocks_(local_blocks),
        there_(std::move(there)),
        back_(std::move(back)),
        tokens_(there_.kept.rows()),
        chunks_((tokens_ + share.chunk - 1) / share.chunk) {
    if (dispatch == Dispatch::kAllToAll) counts_ = count_rows_by_rank(ctx, share, local_blocks, there_.kept);
    const int64_t most = std::min(share_.chunk, tokens_);
    for (int64_t i = 0; i < std::min<int64_t>(chunks_, 3); ++i) {
      routes_.push_back(dispatch == Dispatch::kGather ? make_gather_route(share_)
                                                      : make_all_to_all_route(ctx_, share_, local_blocks_, most));
    }
    for (int64_t i = 0; i < std::min<int64_t>(chunks_, 2); ++i) lanes_.push_back(make_lane(most));
  }

  void run(const Work& work) {
    if (chunks_ == 0) return;
    set_out(0);
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      arrive(chunk);
      if (chunk + 1 < chunks_) set_out(chunk + 1);
      compute(chunk, work);
      turn_back(chunk);
      if (chunk > 0) come_home(chunk - 1);
    }
    come_home(chunks_ - 1);
  }

 private:
  struct Lane {
    RowsUnderWay x, dy, kept, weights;
    std::vector<RowsUnderWay> back;
  };

  // For chunks of this many tokens.
  Lane make_lane(int64_t most) {
    Lane lane;
    const auto there = [&](const Tensor& rows, const char* what) {
      if (!rows.defined()) return RowsUnderWay();
      return routes_[0]->outbound(ctx_, most, rows.cols(), rows.dtype(), what);
    };
    lane.x = there(there_.x, "tokens of the expert ranks");
    lane.dy = there(there_.dy, "dy of the expert ranks");
    lane.kept = there(there_.kept, "choices of the expert ranks");
    lane.weights = there(there_.weights, "weights of the expert ranks");
    for (const Back& back : back_) {
      lane.back.push_back(routes_[0]->inbound(ctx_, most, back.out.cols(), back.out.dtype(), back.what));
    }
    return lane;
  }

  Lane& lane_of(int64_t chunk) { return lanes_[static_cast<size_t>(chunk % 2)]; }
  TokenRoute& route_of(int64_t chunk) { return *routes_[static_cast<size_t>(chunk % 3)]; }
  Tensor part_of(const Tensor& rows, int64_t chunk) const {
    const int64_t first = chunk * share_.chunk;
    return rows.slice(first, std::min(share_.chunk, tokens_ - first));
  }
  template <class F>
  void each_there(Lane& lane, F&& f) {
    if (lane.x.defined()) f(lane.x, there_.x);
    if (lane.dy.defined()) f(lane.dy, there_.dy);
    f(lane.kept, there_.kept);
    if (lane.weights.defined()) f(lane.weights, there_.weights);
  }

  void set_out(int64_t chunk) {
    Lane& lane = lane_of(chunk);
    const int32_t* counts = counts_.empty() ? nullptr : counts_.data() + chunk * share_.ranks * share_.ranks;
    route_of(chunk).take(ctx_, part_of(there_.kept, chunk), counts);
    each_there(lane, [&](RowsUnderWay& rows, const Tensor& mine) {
      route_of(chunk).begin_dispatch(ctx_, rows, part_of(mine, chunk));
    });
  }
  void arrive(int64_t chunk) {
    each_there(lane_of(chunk), [&](RowsUnderWay& rows, const Tensor&) { rows.end(ctx_.stream); });
  }
  void compute(int64_t chunk, const Work& work) {
    Lane& lane = lane_of(chunk);
    const int64_t rows = route_of(chunk).arrived();
    const auto here = [&](const RowsUnderWay& of) { return of.defined() ? of.here(rows) : Tensor(); };
    const Tensor blocks = lane.kept.here(rows);
    ops::localise_blocks(ctx_.stream, blocks, blocks, share_.rank * local_blocks_, local_blocks_);
    const TokenDispatcher::Arrived arrived{.x = here(lane.x),
                                           .chosen = {.blocks = blocks, .kept = blocks, .weights = here(lane.weights)}};
    std::vector<Tensor> results;
    for (const RowsUnderWay& back : lane.back) results.push_back(back.here(rows));
    work(results, here(lane.dy), arrived);
  }
  void turn_back(int64_t chunk) {
    for (RowsUnderWay& rows : lane_of(chunk).back) route_of(chunk).begin_return(ctx_, rows);
  }
  void come_home(int64_t chunk) {
    Lane& lane = lane_of(chunk);
    for (size_t i = 0; i < back_.size(); ++i) {
      lane.back[i].end(ctx_.stream);
      route_of(chunk).combine(ctx_, part_of(back_[i].out, chunk), lane.back[i], back_[i].bias);
    }
  }

  Context& ctx_;
  const ExpertShare& share_;
  const int64_t local_blocks_;
  const There there_;
  const std::vector<Back> back_;
  const int64_t tokens_, chunks_;
  std::vector<int32_t> counts_;  // all_to_all: count_rows_by_rank
  std::vector<std::unique_ptr<TokenRoute>> routes_;
  std::vector<Lane> lanes_;
};

}  // namespace

Dispatch TokenDispatcher::dispatch_of(Context& ctx, const Tensor& x, int64_t width_out, DType dtype,
                                      const Selection& chosen) const {
  const int64_t width_in = x.defined() ? x.cols() : 0;
  const TokenBytes token = TokenBytes::forward(width_in, width_out, chosen.kept.cols(), chosen.weights.defined(),
                                               static_cast<int64_t>(size_of(dtype)));
  return choose_dispatch(share_.dispatch, dispatch_volume(share_.ranks, chosen.kept.cols(), token),
                         ctx.stream.is_cuda());
}

void TokenDispatcher::forward(Context& ctx, Tensor y, const Tensor& bias, const Tensor& x, const Selection& chosen,
                              const Forward& compute) const {
  const ArenaScope scope(ctx.scratch);
  Pipeline pipeline(ctx, share_, local_blocks_, dispatch_of(ctx, x, y.cols(), y.dtype(), chosen),
                    {.x = x, .dy = {}, .kept = chosen.kept, .weights = chosen.weights},
                    {{.out = y, .bias = bias, .what = "outputs of the blocks"}});
  pipeline.run([&](std::span<const Tensor> here, const Tensor&, const Arrived& arrived) { compute(here[0], arrived); });
}

void TokenDispatcher::backward(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                               const Selection& chosen, const Backward& compute) const {
  const ArenaScope scope(ctx.scratch);
  std::vector<Pipeline::Back> back;
  if (dx.defined()) back.push_back({.out = dx, .bias = {}, .what = "dx of the tokens here"});
  if (dweights.defined()) back.push_back({.out = dweights, .bias = {}, .what = "dweights of the tokens here"});
  Pipeline pipeline(ctx, share_, local_blocks_, dispatch_of(ctx, x, dy.cols(), dy.dtype(), chosen),
                    {.x = x, .dy = dy, .kept = chosen.kept, .weights = chosen.weights}, std::move(back));
  pipeline.run([&](std::span<const Tensor> here, const Tensor& dy_here, const Arrived& arrived) {
    const Tensor dx_here = dx.defined() ? here.front() : Tensor();
    compute(dx_here, dweights.defined() ? here.back() : Tensor(), dy_here, arrived);
  });
}

}  // namespace sffn
