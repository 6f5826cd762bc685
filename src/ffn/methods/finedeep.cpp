// Finedeep: a gated FFN cut along its inner width into M sub-layers of K experts, every expert active
// (ffn/finedeep_ffn.cpp). Pan et al., arXiv 2502.12928.
#include "ffn/finedeep_ffn.h"

namespace sffn {
namespace {

constexpr Named<FinedeepRouter> kRouterNames[] = {{"output_sigmoid", FinedeepRouter::kOutputSigmoid},
                                                  {"input_sigmoid", FinedeepRouter::kInputSigmoid},
                                                  {"softmax", FinedeepRouter::kSoftmax},
                                                  {"none", FinedeepRouter::kNone}};

class FinedeepOptions final : public FfnOptions {
 public:
  explicit FinedeepOptions(const FinedeepConfig& config) : config_(config), shape_(config.shape()) {}

  FfnCost cost(const ModelConfig& model) const override {
    const int64_t d = model.d_model, tables = 3 * d * config_.d_ff;
    const int64_t routers = config_.router == FinedeepRouter::kNone ? 0 : config_.sub_layers * config_.experts * d;
    FfnCost cost;
    cost.parameters = tables + routers + (config_.sub_layer_norm ? config_.sub_layers : 1) * d;
    cost.active_parameters = cost.parameters;
    cost.flops_per_token = static_cast<double>(2 * tables + 4 * routers);
    return cost;
  }
  std::unique_ptr<FfnLayer> make(const FfnBuild& build) const override {
    return make_finedeep(build, config_, cost(build.model));
  }
  const BlockShape* block_shape() const override { return &shape_; }
  TokenTrips token_trips(const ModelConfig& model, int64_t value_bytes) const override {
    const int64_t d = model.d_model, weights = config_.weighs_inputs(), K = config_.experts;
    const auto x = static_cast<double>(d * value_bytes), r = static_cast<double>(weights * 4 * K);
    const auto table = static_cast<double>(2 * d * config_.d_ff / config_.sub_layers);  // of three
    return {.forward = {.bytes = {.there = x + r, .back = x}, .brings = 1 + weights, .returns = 1, .flops = 3 * table},
            .backward = {.bytes = {.there = 2 * x + r, .back = x + r},
                         .brings = 2 + weights,
                         .returns = 1 + weights,
                         .flops = 8 * table},
            .passes = config_.sub_layers,
            .used = K,
            .all = true};
  }

 private:
  FinedeepConfig config_;
  BlockShape shape_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  FinedeepConfig config;
  config.d_ff = reader.derived<int64_t>("d_ff", "model.ffn.d_ff", "Cells of all experts together.", kAtLeastOne)
                    .value_or(model.ffn.d_ff);
  reader.resolve("d_ff", config.d_ff);
  config.sub_layers =
      reader.required<int64_t>("sub_layers", "Sub-layers, M, each with a residual addition.", kAtLeastOne);
  config.experts = reader.required<int64_t>("experts", "Experts of a sub-layer, K.", kAtLeastOne);
  config.router = reader.one_of(
      "router", kRouterNames, FinedeepRouter::kOutputSigmoid,
      "Weight of an expert: sigmoid of its output along a vector, sigmoid or softmax over the sub-layer's "
      "experts of its input along one, or 1.");
  config.sub_layer_norm = reader.optional<bool>("sub_layer_norm", true,
                                                "A norm for every sub-layer; false: the layer's one norm before each.");
  if (reader.collecting()) config.sub_layers = config.experts = 1;
  if (config.d_ff % config.sub_layers != 0 || config.d_ff / config.sub_layers % config.experts != 0) {
    reader.fail("experts", cat("is ", config.experts, " in each of ", config.sub_layers, " sub_layers; d_ff, ",
                               config.d_ff, ", must be a multiple of sub_layers times experts"));
  }
  return std::make_unique<FinedeepOptions>(config);
}

const RegisterFfn kRegistered{{.name = "finedeep",
                               .summary = "sub-layers of gated experts, all active, weighed by their own outputs",
                               .source = "Pan et al., arXiv 2502.12928",
                               .tiny_config = R"({"type": "finedeep", "sub_layers": 2, "experts": 4})",
                               .parse = parse}};

}  // namespace
}  // namespace sffn
