#include "ffn/sparse_ffn.h"

#include <utility>

namespace sffn {

FfnCost SparseMethod::cost(const ModelConfig& model) const {
  FfnCost cost = table_cost(model, sparse_.shape);
  const FfnCost selector = selector_cost(model);
  cost.parameters += selector.parameters;
  cost.active_parameters += selector.parameters;
  cost.flops_per_token += selector.flops_per_token;
  return cost;
}

std::unique_ptr<FfnLayer> SparseMethod::make(const FfnBuild& build) const {
  return std::make_unique<SparseFfn>(build, sparse_, *this);
}

SparseFfn::SparseFfn(const FfnBuild& build, const SparseOptions& options, const SparseMethod& method)
    : ChoosingFfn(build, method.cost(build.model), options.shape.blocks()),
      options_(options),
      recompute_(build.recompute == Recompute::kFfn),
      tables_(BlockStore::add(build, options.shape)),
      selector_(method.make_selector(build, tables_)) {}

std::unique_ptr<ChoosingFfn::Product> SparseFfn::product(Context& ctx, Tensor y, const SelectorInput& in) {
  auto pass = std::make_unique<Pass>();
  pass->chosen = selector_->select(ctx, in, pass->selector);
  pass->compute.emplace(options_.shape, tables_, options_.plan_on(ctx.stream, in.x.dtype()), recompute_);
  pass->compute->forward(ctx, y, in.x, pass->chosen, pass->blocks);
  return pass;
}

void SparseFfn::product_backward(Context& ctx, Tensor dx, const Tensor& dy, const SelectorInput& in,
                                 const Product& base) {
  const Pass& pass = static_cast<const Pass&>(base);
  const Tensor& weights = pass.chosen.weights;
  Tensor dweights;
  if (weights.defined()) dweights = ctx.scratch.allocate(weights.shape(), weights.dtype(), "dweights");
  pass.compute->backward(ctx, dx, dweights, dy, in.x, pass.chosen, pass.blocks);
  selector_->backward(ctx, *pass.selector, in, pass.chosen, dweights, dx);
}

}  // namespace sffn
