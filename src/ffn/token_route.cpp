#include "ffn/token_route.h"

#include "kernels/ops.h"

#include <algorithm>
#include <numeric>

namespace sffn {
namespace {

int64_t total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

class GatherRoute final : public TokenRoute {
 public:
  explicit GatherRoute(const ExpertShare& share) : TokenRoute(share.ranks), ones_(static_cast<size_t>(R_), 1) {}

  RowsUnderWay outbound(Context& ctx, int64_t tokens, int64_t columns, DType dtype, const char* what) const override {
    return {ctx.scratch.allocate({R_ * tokens, columns}, dtype, what), Tensor()};
  }
  void take(Context&, int64_t tokens, const Tensor&, const int32_t*) override { tokens_ = tokens; }
  int64_t arrived() const override { return R_ * tokens_; }

  void begin_dispatch(Context& ctx, RowsUnderWay& rows, const Tensor& mine) const override {
    const std::vector<int64_t> counts(ones_.size(), tokens_);
    rows.begin(ctx.parallel.expert->begin_all_gather(ctx.stream, rows.here(arrived()), mine, counts));
  }
  void begin_return(Context& ctx, RowsUnderWay& rows) const override {
    rows.begin(ctx.parallel.expert->begin_all_to_all(ctx.stream, parts(rows.outside(arrived())), ones_,
                                                     parts(rows.here(arrived())), ones_));
  }
  void combine(Context& ctx, Tensor out, const RowsUnderWay& rows, const Tensor& bias) const override {
    ops::sum_parts(ctx.stream, out, parts(rows.outside(arrived())), bias);
  }

 private:
  Tensor parts(const Tensor& rows) const { return rows.view({R_, tokens_, rows.cols()}); }

  std::vector<int64_t> ones_;
  int64_t tokens_ = 0;
};

// ranks [n, R] in ctx.scratch: r where a token has a block on rank r, else -1.
Tensor ranks_of(Context& ctx, const Tensor& blocks, int64_t R, int64_t blocks_of_rank) {
  const Tensor ranks = ctx.scratch.allocate({blocks.rows(), R}, DType::kI32, "ranks of the tokens");
  ops::ranks_of_blocks(ctx.stream, ranks, blocks, blocks_of_rank);
  return ranks;
}

// Rows are sorted by the rank they go to, then by token: the routing of blocks (kernels/routing.h) with ranks for
// blocks. On the meta device every token goes to every rank, which is the most that scratch must hold.
class AllToAllRoute final : public TokenRoute {
 public:
  AllToAllRoute(Context& ctx, const ExpertShare& share, int64_t blocks_of_rank, int64_t tokens)
      : TokenRoute(share.ranks), blocks_of_rank_(blocks_of_rank), rank_(share.rank) {
    const auto indices = [&](int64_t count, const char* what) {
      return ctx.scratch.allocate({count}, DType::kI32, what);
    };
    order_ = indices(tokens * R_, "order by rank");
    inverse_ = indices(tokens * R_, "row of each rank");
    offsets_ = indices(R_ + 1, "rows by rank");
  }

  RowsUnderWay outbound(Context& ctx, int64_t tokens, int64_t columns, DType dtype, const char* what) const override {
    return inbound(ctx, tokens, columns, dtype, what);
  }

  void take(Context& ctx, int64_t n, const Tensor& blocks, const int32_t* counts) override {
    routing_ = {.order = order_.slice(0, n * R_),
                .inverse = inverse_.slice(0, n * R_),
                .offsets = offsets_,
                .blocks = R_,
                .per_token = R_,
                .chunk = n};
    const ArenaScope scope(ctx.scratch);
    const Tensor ranks = ranks_of(ctx, blocks, R_, blocks_of_rank_);
    const Tensor rows = ctx.scratch.allocate({1, R_}, DType::kI32, "rows to each rank");
    ops::count_blocks(ctx.stream, rows, ranks);
    ops::exclusive_scan(ctx.stream, routing_.offsets, rows.view({R_}));
    ops::sort_by_block(ctx.stream, routing_, ranks);
    send_.assign(static_cast<size_t>(R_), n);
    receive_ = send_;
    if (ctx.stream.is_meta()) return;
    for (int64_t r = 0; r < R_; ++r) {
      send_[static_cast<size_t>(r)] = counts[rank_ * R_ + r];
      receive_[static_cast<size_t>(r)] = counts[r * R_ + rank_];
    }
  }
  int64_t arrived() const override { return total(receive_); }

  void begin_dispatch(Context& ctx, RowsUnderWay& rows, const Tensor& mine) const override {
    const Tensor sent = rows.outside(total(send_));
    ops::gather_tokens(ctx.stream, sent, mine, routing_.order.slice(0, sent.rows()), R_);
    rows.begin(ctx.parallel.expert->begin_all_to_all(ctx.stream, rows.here(arrived()), receive_, sent, send_));
  }
  void begin_return(Context& ctx, RowsUnderWay& rows) const override {
    rows.begin(ctx.parallel.expert->begin_all_to_all(ctx.stream, rows.outside(total(send_)), send_,
                                                     rows.here(arrived()), receive_));
  }
  void combine(Context& ctx, Tensor out, const RowsUnderWay& rows, const Tensor& bias) const override {
    ops::combine_tokens(ctx.stream, out, rows.outside(total(send_)), routing_.inverse.view({out.rows(), R_}), bias);
  }

 private:
  int64_t blocks_of_rank_, rank_;
  Tensor order_, inverse_, offsets_;
  BlockRouting routing_;
  std::vector<int64_t> send_, receive_;  // rows to and from each rank
};

}  // namespace

RowsUnderWay TokenRoute::inbound(Context& ctx, int64_t tokens, int64_t columns, DType dtype, const char* what) const {
  const Shape shape{R_ * tokens, columns};
  const Tensor here = ctx.scratch.allocate(shape, dtype, what);
  return {here, ctx.scratch.allocate(shape, dtype, what)};
}

std::unique_ptr<TokenRoute> make_gather_route(const ExpertShare& share) { return std::make_unique<GatherRoute>(share); }

std::unique_ptr<TokenRoute> make_all_to_all_route(Context& ctx, const ExpertShare& share, int64_t blocks_of_rank,
                                                  int64_t tokens) {
  return std::make_unique<AllToAllRoute>(ctx, share, blocks_of_rank, tokens);
}

std::vector<int32_t> count_rows_by_rank(Context& ctx, const ExpertShare& share, int64_t blocks_of_rank,
                                        const Tensor& blocks) {
  const int64_t R = share.ranks, N = blocks.rows(), chunks = (N + share.chunk - 1) / share.chunk;
  const ArenaScope scope(ctx.scratch);
  const Tensor counts = ctx.scratch.allocate({chunks, R}, DType::kI32, "rows to each rank");
  for (int64_t c = 0; c < chunks; ++c) {
    const ArenaScope of_chunk(ctx.scratch);
    const int64_t first = c * share.chunk;
    const Tensor some = blocks.slice(first, std::min(share.chunk, N - first));
    ops::count_blocks(ctx.stream, counts.slice(c, 1), ranks_of(ctx, some, R, blocks_of_rank));
  }
  if (ctx.stream.is_meta()) return {};
  std::vector<int32_t> mine(static_cast<size_t>(counts.numel()));
  ctx.stream.copy_to_host(mine.data(), counts);
  ctx.stream.synchronize();
  const std::vector<int32_t> by_rank = ctx.parallel.expert->gather_lists(mine);  // [R, chunks, R]
  std::vector<int32_t> all(by_rank.size());
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t c = 0; c < chunks; ++c) {
      std::copy_n(by_rank.begin() + (r * chunks + c) * R, R, all.begin() + (c * R + r) * R);
    }
  }
  return all;
}

}  // namespace sffn
