// Tokens brought to the blocks that they chose, where the blocks of a layer are spread over R expert ranks: rank r
// holds blocks [r·B/R, (r+1)·B/R). Every rank passes the same number of tokens.
//   forward   y[n,:]  = Σ_r y_r[n,:] + bias,   y_r what the blocks of rank r make of the tokens of all ranks
//   backward  dx[n,:] = Σ_r dx_r[n,:],  dweights likewise; x is brought again, nothing is kept from forward to backward
// Two dispatchers:
//   gather      every token goes to every rank, and comes back from every rank: no counts, static shapes
//   all_to_all  a token goes once to each rank that holds one of its blocks, with its blocks and weights
// In chunks of `chunk` tokens a rank, for which scratch is made.
// Legend: N tokens of a rank, R expert ranks, W width of x, D width, b chosen.
#pragma once
#include "core/params.h"
#include "ffn/selector.h"
#include "nn/context.h"

#include <cstdint>
#include <functional>

namespace sffn {

// Which share of the blocks a rank holds.
struct ExpertShare {
  int64_t rank = 0, ranks = 1;
  int64_t chunk = 8192;  // tokens of a rank

  bool spread() const { return ranks > 1; }
  RowRange rows(int64_t rows) const { return {rank * (rows / ranks), rows / ranks}; }
};

// The rows of every expert rank in rank order, [R·N, …], in ctx.scratch; mine [N, …].
Tensor gather_expert_rows(Context&, const Tensor& mine);
// The same where this rank's rows stand in their place in `all` [R·N, …].
void all_gather_expert_rows(Context&, Tensor all);
// out [N, C] = Σ_r of this rank's rows of `all` [R·N, C] of rank r, + bias [C] acc, or absent.
void return_expert_rows(Context&, Tensor out, const Tensor& all, const Tensor& bias);
// recv and send [R, …]: part r of send goes to rank r, part r of recv comes from it.
void exchange_expert_parts(Context&, Tensor recv, const Tensor& send);

class GatherDispatcher {
 public:
  // Tokens as this rank's blocks see them: blocks counted from the first of the rank, -1 for those of other ranks.
  struct Arrived {
    Tensor x;  // [N', W]; absent where the product does not read it
    Selection chosen;
  };
  using Forward = std::function<void(Tensor y, const Arrived&)>;  // y [N', D], overwritten
  // dx [N', W] and dweights [N', b], overwritten; dweights absent where the selection has no weights
  using Backward = std::function<void(Tensor dx, Tensor dweights, const Tensor& dy, const Arrived&)>;

  GatherDispatcher(const ExpertShare& share, int64_t local_blocks) : share_(share), local_blocks_(local_blocks) {}

  // y [N, D], overwritten. x absent: not brought. bias [D] acc, or absent.
  void forward(Context&, Tensor y, const Tensor& bias, const Tensor& x, const Selection&, const Forward&) const;
  // dx [N, W], overwritten, and dweights [N, b] acc, overwritten; absent where there is nothing to bring back.
  void backward(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&,
                const Backward&) const;

 private:
  Arrived bring(Context&, const Tensor& x, const Selection&, int64_t first, int64_t count) const;
  template <class Visit>
  void for_each_chunk(Context&, int64_t tokens, Visit&& visit) const;

  ExpertShare share_;
  int64_t local_blocks_;
};

}  // namespace sffn
