#include "ffn/dispatch.h"

#include "ffn/token_route.h"
#include "kernels/ops.h"

#include <algorithm>
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

namespace {

// The chunks of one pass. Legend: a lane is the memory of one chunk under way; two serve, because a chunk sets out when
// the blocks have done with the one before the last. That one's route is needed until its results are home: three
// routes.
class Pipeline {
 public:
  // choices [N, b]: by which tokens go to ranks; absent: every token to every rank.
  Pipeline(Context& ctx, const ExpertShare& share, const Tensor& choices, int64_t local_blocks,
           std::vector<Tensor> there, std::vector<Returned> back)
      : ctx_(ctx),
        share_(share),
        choices_(choices),
        there_(std::move(there)),
        back_(std::move(back)),
        tokens_(std::find_if(there_.begin(), there_.end(), [](const Tensor& t) { return t.defined(); })->rows()),
        chunks_((tokens_ + share.chunk - 1) / share.chunk) {
    if (choices_.defined()) counts_ = count_rows_by_rank(ctx, share, local_blocks, choices_);
    const int64_t most = std::min(share_.chunk, tokens_);
    for (int64_t i = 0; i < std::min<int64_t>(chunks_, 3); ++i) {
      routes_.push_back(choices_.defined() ? make_all_to_all_route(ctx_, share_, local_blocks, most)
                                           : make_gather_route(share_));
    }
    for (int64_t i = 0; i < std::min<int64_t>(chunks_, 2); ++i) lanes_.push_back(make_lane(most));
  }

  void run(const TokenWork& work) {
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
    std::vector<RowsUnderWay> there, back;  // those of absent parts are not defined
  };

  // For chunks of this many tokens.
  Lane make_lane(int64_t most) {
    Lane lane;
    for (const Tensor& rows : there_) {
      lane.there.push_back(rows.defined() ? routes_[0]->outbound(ctx_, most, rows.cols(), rows.dtype(),
                                                                 "rows of the expert ranks' tokens")
                                          : RowsUnderWay());
    }
    for (const Returned& back : back_) {
      lane.back.push_back(routes_[0]->inbound(ctx_, most, back.out.cols(), back.out.dtype(), back.what));
    }
    return lane;
  }

  Lane& lane_of(int64_t chunk) { return lanes_[static_cast<size_t>(chunk % 2)]; }
  TokenRoute& route_of(int64_t chunk) { return *routes_[static_cast<size_t>(chunk % 3)]; }
  Tensor part_of(const Tensor& rows, int64_t chunk) const {
    if (!rows.defined()) return Tensor();
    const int64_t first = chunk * share_.chunk;
    return rows.slice(first, std::min(share_.chunk, tokens_ - first));
  }

  void set_out(int64_t chunk) {
    Lane& lane = lane_of(chunk);
    const int32_t* counts = counts_.empty() ? nullptr : counts_.data() + chunk * share_.ranks * share_.ranks;
    const int64_t tokens = std::min(share_.chunk, tokens_ - chunk * share_.chunk);
    route_of(chunk).take(ctx_, tokens, part_of(choices_, chunk), counts);
    for (size_t i = 0; i < there_.size(); ++i) {
      if (there_[i].defined()) route_of(chunk).begin_dispatch(ctx_, lane.there[i], part_of(there_[i], chunk));
    }
  }
  void arrive(int64_t chunk) {
    for (RowsUnderWay& rows : lane_of(chunk).there) {
      if (rows.defined()) rows.end(ctx_.stream);
    }
  }
  void compute(int64_t chunk, const TokenWork& work) {
    const int64_t rows = route_of(chunk).arrived();
    const auto here = [&](const std::vector<RowsUnderWay>& parts) {
      std::vector<Tensor> tensors;
      for (const RowsUnderWay& part : parts) tensors.push_back(part.defined() ? part.here(rows) : Tensor());
      return tensors;
    };
    work(here(lane_of(chunk).back), here(lane_of(chunk).there));
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
  const Tensor choices_;
  const std::vector<Tensor> there_;
  const std::vector<Returned> back_;
  const int64_t tokens_, chunks_;
  std::vector<int32_t> counts_;  // all_to_all: count_rows_by_rank
  std::vector<std::unique_ptr<TokenRoute>> routes_;
  std::vector<Lane> lanes_;
};

}  // namespace

void use_all_blocks(Context& ctx, const ExpertShare& share, std::vector<Tensor> there, std::vector<Returned> back,
                    const TokenWork& work) {
  if (share.spread()) {
    const ArenaScope scope(ctx.scratch);
    return Pipeline(ctx, share, Tensor(), 0, std::move(there), std::move(back)).run(work);
  }
  std::vector<Tensor> out;
  for (const Returned& returned : back) out.push_back(returned.out);
  work(out, there);
}

Tensor own_columns(Context& ctx, const ExpertShare& share, const Tensor& x) {
  if (!share.spread()) return x;
  const int64_t N = x.rows(), C = x.cols() / share.ranks;
  const Tensor parts = ctx.scratch.allocate({share.ranks, N, C}, x.dtype(), "columns by rank");
  ops::split_columns(ctx.stream, parts, x);
  return parts.slice(share.rank, 1).view({N, C});
}

void fill_own_columns(Context& ctx, const ExpertShare& share, Tensor x, const std::function<void(Tensor own)>& fill) {
  if (!share.spread()) return fill(x);
  const ArenaScope scope(ctx.scratch);
  const int64_t N = x.rows(), C = x.cols() / share.ranks;
  const Tensor parts = ctx.scratch.allocate({share.ranks, N, C}, x.dtype(), "columns by rank");
  ops::fill_zero(ctx.stream, parts);
  fill(parts.slice(share.rank, 1).view({N, C}));
  ops::join_columns(ctx.stream, x, parts, Accumulate::kNo);
}

Dispatch TokenDispatcher::dispatch_of(Context& ctx, const Tensor& x, int64_t width_out, DType dtype,
                                      const Selection& chosen) const {
  const int64_t width_in = x.defined() ? x.cols() : 0;
  const TokenBytes token = TokenBytes::forward(width_in, width_out, chosen.kept.cols(), chosen.weights.defined(),
                                               static_cast<int64_t>(size_of(dtype)));
  return choose_dispatch(share_.dispatch, dispatch_volume(share_.ranks, chosen.kept.cols(), token),
                         ctx.stream.is_cuda());
}

void TokenDispatcher::run(Context& ctx, Dispatch dispatch, const Tensor& dy, const Tensor& x, const Selection& chosen,
                          std::vector<Returned> back, const Chosen& work) const {
  const ArenaScope scope(ctx.scratch);
  const Tensor choices = dispatch == Dispatch::kAllToAll ? chosen.kept : Tensor();
  Pipeline pipeline(ctx, share_, choices, local_blocks_, {x, dy, chosen.kept, chosen.weights}, std::move(back));
  pipeline.run([&](std::span<const Tensor> results, std::span<const Tensor> here) {
    const Tensor& blocks = here[2];
    ops::localise_blocks(ctx.stream, blocks, blocks, share_.rank * local_blocks_, local_blocks_);
    work(results, here[1], {.x = here[0], .chosen = {.blocks = blocks, .kept = blocks, .weights = here[3]}});
  });
}

void TokenDispatcher::forward(Context& ctx, Tensor y, const Tensor& bias, const Tensor& x, const Selection& chosen,
                              const Forward& compute) const {
  run(ctx, dispatch_of(ctx, x, y.cols(), y.dtype(), chosen), Tensor(), x, chosen,
      {{.out = y, .bias = bias, .what = "outputs of the blocks"}},
      [&](std::span<const Tensor> here, const Tensor&, const Arrived& arrived) { compute(here[0], arrived); });
}

void TokenDispatcher::backward(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                               const Selection& chosen, const Backward& compute) const {
  std::vector<Returned> back;
  if (dx.defined()) back.push_back({.out = dx, .bias = {}, .what = "dx of the tokens here"});
  if (dweights.defined()) back.push_back({.out = dweights, .bias = {}, .what = "dweights of the tokens here"});
  run(ctx, dispatch_of(ctx, x, dy.cols(), dy.dtype(), chosen), dy, x, chosen, std::move(back),
      [&](std::span<const Tensor> here, const Tensor& dy_here, const Arrived& arrived) {
        const Tensor dx_here = dx.defined() ? here.front() : Tensor();
        compute(dx_here, dweights.defined() ? here.back() : Tensor(), dy_here, arrived);
      });
}

}  // namespace sffn
