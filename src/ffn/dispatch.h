// Tokens brought to the blocks that they chose, where the blocks of a layer are spread over R expert ranks: rank r
// holds blocks [r·B/R, (r+1)·B/R). Every rank passes the same number of tokens.
//   forward   y[n,:]  = Σ_r y_r[n,:] + bias,   y_r what the blocks of rank r make of the tokens of all ranks
//   backward  dx[n,:] = Σ_r dx_r[n,:],  dweights likewise; x is brought again, nothing is kept from forward to backward
// Two ways (config: parallel.dispatch), with the same sums in the order of r:
//   gather      every token goes to every rank, and comes back from every rank: no counts, static shapes
//   all_to_all  a token goes once to each rank that holds one of its blocks, with its blocks and weights; ranks tell
//               each other how many rows they send, so the host reads counts of the device
// In chunks of `chunk` tokens a rank, two of which scratch is made for: while the blocks work on one chunk, the tokens
// of the next are on their way here, and what was made of the one before is on its way back. Legend: N tokens of a
// rank, R expert ranks, W width of x, D width, b chosen.
#pragma once
#include "ffn/expert_share.h"
#include "ffn/selector.h"
#include "ffn/token_trips.h"
#include "nn/context.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace sffn {

// The rows of every expert rank in rank order, [R·N, …], in ctx.scratch; mine [N, …].
Tensor gather_expert_rows(Context&, const Tensor& mine);
// The same where this rank's rows stand in their place in `all` [R·N, …].
void all_gather_expert_rows(Context&, Tensor all);
// out [N, C] = Σ_r of this rank's rows of `all` [R·N, C] of rank r, + bias [C] acc, or absent.
void return_expert_rows(Context&, Tensor out, const Tensor& all, const Tensor& bias);
// recv and send [R, …]: part r of send goes to rank r, part r of recv comes from it.
void exchange_expert_parts(Context&, Tensor recv, const Tensor& send);

// What comes back of tokens: out [n, C] = Σ_r of what rank r made of them, r ascending, + bias [C] acc, or absent.
struct Returned {
  Tensor out, bias;
  const char* what;
};
// Fills results [N', …], one for each Returned, of the rows [N', …] that came here; absent ones did not travel.
using TokenWork = std::function<void(std::span<const Tensor> results, std::span<const Tensor> here)>;

// A layer whose tokens use all blocks: rows [N, …] of this rank's tokens go to every rank, whatever parallel.dispatch
// is, since each holds blocks of every token, and no choice goes with them. Where nothing is spread it is work(back,
// there), without bias.
void use_all_blocks(Context&, const ExpertShare&, std::vector<Tensor> there, std::vector<Returned> back,
                    const TokenWork&);
// Of x [N, C] the columns [N, C/R] of this rank's blocks, in ctx.scratch; x itself where nothing is spread.
Tensor own_columns(Context&, const ExpertShare&, const Tensor& x);
// x [N, C], overwritten: fill(own [N, C/R]) in this rank's columns, zeros in the others'.
void fill_own_columns(Context&, const ExpertShare&, Tensor x, const std::function<void(Tensor own)>& fill);

class TokenDispatcher {
 public:
  // Tokens as this rank's blocks see them: blocks counted from the first of the rank, -1 for those of other ranks.
  struct Arrived {
    Tensor x;  // [N', W]; absent where the product does not read it
    Selection chosen;
  };
  using Forward = std::function<void(Tensor y, const Arrived&)>;  // y [N', D], overwritten
  // dx [N', W] and dweights [N', b], overwritten; dweights absent where the selection has no weights
  using Backward = std::function<void(Tensor dx, Tensor dweights, const Tensor& dy, const Arrived&)>;

  TokenDispatcher(const ExpertShare& share, int64_t local_blocks) : share_(share), local_blocks_(local_blocks) {}

  // y [N, D], overwritten. x absent: not brought. bias [D] acc, or absent.
  void forward(Context&, Tensor y, const Tensor& bias, const Tensor& x, const Selection&, const Forward&) const;
  // dx [N, W], overwritten, and dweights [N, b] acc, overwritten; absent where there is nothing to bring back.
  void backward(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&,
                const Backward&) const;

 private:
  using Chosen = std::function<void(std::span<const Tensor> results, const Tensor& dy, const Arrived&)>;
  void run(Context&, Dispatch, const Tensor& dy, const Tensor& x, const Selection&, std::vector<Returned> back,
           const Chosen&) const;
  Dispatch dispatch_of(Context&, const Tensor& x, int64_t width_out, DType, const Selection&) const;

  ExpertShare share_;
  int64_t local_blocks_;
};

}  // namespace sffn
