// The feed-forward sub-layer of a block, whatever its method.
#pragma once
#include "core/json.h"
#include "nn/context.h"
#include "nn/residual.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace sffn {

struct FfnInput {
  Residual h;        // [N, D] each
  Tensor token_ids;  // [N] i32: hash methods choose by them
  int64_t time = 0;  // tokens per sequence: N = B·T
};

struct FfnCost {
  int64_t parameters = 0;         // of the layer, its norm included
  int64_t active_parameters = 0;  // parameters minus the rows of the cells one token does not use
  double flops_per_token = 0;     // forward, analytic (methods.md section 7)
};

// How often each id stands in the training data [V]; empty where that is not known. Called by the layers that need it.
using TokenCounts = std::function<std::vector<double>()>;
inline std::vector<double> no_token_counts() { return {}; }

// Residual stream in, residual stream out: the layer owns its norm, because Finedeep holds several norms and residual
// additions inside what a dense block calls its FFN.
class FfnLayer {
 public:
  struct Saved {
    virtual ~Saved() = default;
  };
  virtual ~FfnLayer() = default;
  // Allocates what backward needs in ctx.saved, and the result's tensors there too.
  virtual Residual forward(Context& ctx, const FfnInput& in, std::unique_ptr<Saved>& saved) = 0;
  // dh [N, D]: on entry the gradient of the output's value, on return that of the input's value. Parameter gradients
  // accumulate.
  virtual void backward(Context& ctx, const Saved& saved, Tensor dh) = 0;
  virtual FfnCost cost() const = 0;

  // Sets the state that follows from the training data, before the first step. Throws UsageError where that needs
  // counts which are not known.
  virtual void initialise_state(Stream&, const TokenCounts&) {}
  // What the layer counts in passes with ctx.count_choices [n] f64: whole numbers, additive over micro-batches and
  // ranks. Absent: nothing.
  virtual Tensor counters() const { return {}; }
  // After an optimizer step, with the counters of the step's global batch [n] f64 and the numbers of the update, which
  // may say that it did not take place. Balance by bias moves its biases.
  virtual void after_step(Stream&, const Tensor& /*counts*/, const Tensor& /*numbers*/) {}
  // The counts as metrics of one object (interface: metrics.jsonl, ffn).
  virtual Json statistics(const std::vector<double>& /*counts*/) const { return Json::object(); }
  // Choices of each block since the counters were cleared; empty for layers without blocks.
  virtual std::vector<double> block_load(const std::vector<double>& /*counts*/) const { return {}; }
  // A statistic is over the global batch of the step, so gradients cannot be accumulated over micro-batches.
  virtual bool needs_whole_step() const { return false; }
};

}  // namespace sffn
