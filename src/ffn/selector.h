// How a sparse layer chooses blocks for a token, and how it weighs them.
#pragma once
#include "ffn/ffn.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace sffn {

struct SelectorInput {
  Tensor x;          // [N, D]: the normed residual stream, input of the block product too
  Tensor token_ids;  // [N] i32
  int64_t time = 0;  // tokens per sequence
  Tensor dropped;    // [1] f64: += choices dropped by capacity; absent: not counted
  Tensor nans;       // [1] f64: += scores that are NaN; absent: not counted
};

struct Selection {
  Tensor blocks;   // [N, b] i32, ascending
  Tensor kept;     // the same with -1 for dropped choices; blocks itself where none are dropped
  Tensor weights;  // [N, b] acc, 0 for dropped choices; absent: all 1
};

class Selector {
 public:
  struct Saved {
    virtual ~Saved() = default;
  };
  virtual ~Selector() = default;
  // What backward needs is allocated in ctx.saved, and so are the results.
  virtual Selection select(Context& ctx, const SelectorInput& in, std::unique_ptr<Saved>& saved) = 0;
  // dweights [N, b] acc: the gradient of the weights; absent where select() gave none. dx [N, D] += the gradient
  // through weights and extra losses. The choice itself has no gradient.
  virtual void backward(Context& ctx, const Saved& saved, const SelectorInput& in, const Selection& chosen,
                        const Tensor& dweights, Tensor dx) = 0;

  // As FfnLayer::initialise_state.
  virtual void initialise_state(Stream&, const TokenCounts&) {}
  // As FfnLayer::after_step, with the choices of each block [B] f64 over the global batch.
  virtual void after_step(Stream&, const Tensor& /*load*/, const Tensor& /*numbers*/) {}
  virtual bool needs_whole_step() const { return false; }
};

}  // namespace sffn
