// The block product where the blocks are spread over the expert ranks: a dispatcher brings the tokens of all ranks, the
// blocks of this rank are multiplied as those of a layer of its own, and the value bias is added once.
#include "ffn/expert_compute.h"
#include "kernels/ops.h"
#include "nn/linear.h"

namespace sffn {

void ExpertCompute::forward_spread(Context& ctx, Tensor y, const Tensor& x, const Selection& chosen) const {
  const TokenDispatcher dispatcher(tables_.share, shape_.blocks());
  dispatcher.forward(ctx, y, value_of(tables_.value_bias), shape_.keys ? x : Tensor(), chosen,
                     [&](Tensor y_here, const TokenDispatcher::Arrived& arrived) {
                       const ArenaScope discarded(ctx.saved);
                       Saved saved;
                       forward_here(ctx, y_here, arrived.x, arrived.chosen, saved, Tensor(), {});
                     });
}

void ExpertCompute::backward_spread(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                                    const Selection& chosen) const {
  const TokenDispatcher dispatcher(tables_.share, shape_.blocks());
  dispatcher.backward(
      ctx, shape_.keys ? dx : Tensor(), dweights, dy, shape_.keys ? x : Tensor(), chosen,
      [&](Tensor dx_here, Tensor dweights_here, const Tensor& dy_here, const TokenDispatcher::Arrived& arrived) {
        const ArenaScope discarded(ctx.saved);
        Saved saved;
        if (form_ == ExpertForm::kGrouped) saved.routing = route(ctx, arrived.chosen);
        backward_here(ctx, dx_here, dweights_here, dy_here, arrived.x, arrived.chosen, saved, {});
      });
}

}  // namespace sffn
