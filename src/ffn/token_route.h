// The way of one chunk of tokens of every expert rank to the ranks of their blocks, and back. Transfers are begun in
// one place and ended in another, so that work on other chunks runs beside them. Legend: n tokens of a rank in a chunk,
// R expert ranks, b chosen, C columns, N' rows that arrive here, at most R·n.
#pragma once
#include "ffn/expert_share.h"
#include "kernels/routing.h"
#include "nn/context.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace sffn {

// Rows of one kind under way: tokens, lists of choices, outputs.
class RowsUnderWay {
 public:
  RowsUnderWay() = default;
  RowsUnderWay(Tensor here, Tensor outside) : here_(std::move(here)), outside_(std::move(outside)) {}
  bool defined() const { return here_.defined(); }
  Tensor here(int64_t rows) const { return here_.slice(0, rows); }        // on the rank of the blocks
  Tensor outside(int64_t rows) const { return outside_.slice(0, rows); }  // as they leave there, or come back

  void begin(std::unique_ptr<Transfer> transfer) { transfer_ = std::move(transfer); }
  void end(Stream& stream) { std::exchange(transfer_, nullptr)->finish(stream); }

 private:
  Tensor here_, outside_;
  std::unique_ptr<Transfer> transfer_;
};

class TokenRoute {
 public:
  virtual ~TokenRoute() = default;
  // Memory in ctx.scratch for any chunk of this many tokens.
  virtual RowsUnderWay outbound(Context&, int64_t tokens, int64_t columns, DType, const char* what) const = 0;
  RowsUnderWay inbound(Context&, int64_t tokens, int64_t columns, DType, const char* what) const;

  // From here on the route is that of n tokens with these choices [n, b]. counts: rows from each rank to each, sender
  // first, [R, R]. Neither is read where every token goes to every rank.
  virtual void take(Context&, int64_t tokens, const Tensor& blocks, const int32_t* counts) = 0;
  virtual int64_t arrived() const = 0;  // N'
  // mine [n, C] sets out; all that comes here is here(arrived()) when the rows have ended.
  virtual void begin_dispatch(Context&, RowsUnderWay&, const Tensor& mine) const = 0;
  // here(arrived()) sets out for the tokens' own ranks.
  virtual void begin_return(Context&, RowsUnderWay&) const = 0;
  // out [n, C] = Σ_r of what came back from rank r, in the order of r, + bias [C] acc, or absent. After the rows' end.
  virtual void combine(Context&, Tensor out, const RowsUnderWay&, const Tensor& bias) const = 0;

 protected:
  explicit TokenRoute(int64_t ranks) : R_(ranks) {}
  int64_t R_;
};

// Every token to every rank.
std::unique_ptr<TokenRoute> make_gather_route(const ExpertShare& share);
// A token to the ranks of its blocks alone. Memory for chunks of this many tokens in ctx.scratch.
std::unique_ptr<TokenRoute> make_all_to_all_route(Context&, const ExpertShare& share, int64_t blocks_of_rank,
                                                  int64_t tokens);
// Rows that this rank's tokens send to each rank, chunk by chunk, of all ranks: [chunks, R, R], sender before receiver.
// blocks [N, b]. Collective; the host waits for the device.
std::vector<int32_t> count_rows_by_rank(Context&, const ExpertShare& share, int64_t blocks_of_rank,
                                        const Tensor& blocks);

}  // namespace sffn
