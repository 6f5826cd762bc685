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
#include "nn/context.h"

#include <cstdint>
#include <functional>

namespace sffn {

// The rows of every expert rank in rank order, [R·N, …], in ctx.scratch; mine [N, …].
Tensor gather_expert_rows(Context&, const Tensor& mine);
// The same where this rank's rows stand in their place in `all` [R·N, …].
void all_gather_expert_rows(Context&, Tensor all);
// out [N, C] = Σ_r of this rank's rows of `all` [R·N, C] of rank r, + bias [C] acc, or absent.
void return_expert_rows(Context&, Tensor out, const Tensor& all, const Tensor& bias);
// recv and send [R, …]: part r of send goes to rank r, part r of recv comes from it.
void exchange_expert_parts(Context&, Tensor recv, const Tensor& send);

// Bytes of one token on its way to one rank and back.
struct TokenBytes {
  double there = 0, back = 0;
  double list = 0;  // of its choices, which goes there as well

  // y = product(x) of rows [W] -> [D] of `value_bytes` an element, with a list of b blocks, and weights of 4 bytes.
  static TokenBytes forward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes);
  // Its backward pass, to which x is brought again.
  static TokenBytes backward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes);
};
// Bytes that a rank sends for one of its tokens, and for what others sent it, on average over uniform choices.
struct DispatchVolume {
  double gather = 0, all_to_all = 0;
  double naive = 0;  // a copy of the token for every choice
};
DispatchVolume dispatch_volume(int64_t ranks, int64_t chosen, const TokenBytes&);
// kAuto: all_to_all where it sends a tenth less, and the device can wait for counts.
Dispatch choose_dispatch(Dispatch wanted, const DispatchVolume& volume, bool is_cuda);

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
  Dispatch dispatch_of(Context&, const Tensor& x, int64_t width_out, DType, const Selection&) const;

  ExpertShare share_;
  int64_t local_blocks_;
};

}  // namespace sffn
