// Group D: the reference layer, N = 65,536 tokens of width 1024, 4096 of 65,536 cells, in bf16, at every granularity.
#include "kernels/ops.h"
#include "tools/bench/bench.h"
#include "tools/bench/expert_layer.h"

#include <algorithm>

namespace sffn {
namespace {

constexpr DType kAct = DType::kBF16;
constexpr int64_t kSamples = 256;

// Bytes: G of one pass over all gathered rows, H of pre-activations, W of both tables, X of the tokens.
struct Traffic {
  double gathered, hidden, tables, rows;
  explicit Traffic(const LayerSizes& s)
      : gathered(2.0 * static_cast<double>(s.tokens * s.width) * static_cast<double>(s.per_token())),
        hidden(2.0 * static_cast<double>(s.tokens * s.active)),
        tables(4.0 * static_cast<double>(s.cells * s.width)),
        rows(2.0 * static_cast<double>(s.tokens * s.width)) {}
};

double forward_flops(const LayerSizes& s, int64_t cells) {
  return 4.0 * static_cast<double>(s.tokens * s.width) * static_cast<double>(cells);
}

// What limits a gather-fused product: rows are gathered for both products and written between them, or the tensor
// cores. Backward: five passes over gathered rows, five over hidden ones; gradients of tables in f32. The masked form
// multiplies with all cells.
std::optional<double> predicted_seconds(const Harness& harness, const LayerSizes& s, ExpertForm form, bool backward) {
  if (harness.peaks() == nullptr) return std::nullopt;
  const Traffic t(s);
  const bool masked = form == ExpertForm::kMasked;
  const double flops = forward_flops(s, masked ? s.cells : s.active);
  const double forward = harness.peaks()->sustained_seconds(
      masked ? t.tables + 2 * t.rows : 3 * t.gathered + 2 * t.hidden + t.tables + t.rows, flops, true);
  if (!backward) return forward;
  return forward + harness.peaks()->sustained_seconds(masked ? 5 * t.tables : 5 * (t.gathered + t.hidden + t.tables),
                                                      2 * flops, true);
}

const char* name_of_form(ExpertForm form) { return form == ExpertForm::kMasked ? "masked" : "grouped"; }

void layer_rows(Harness& harness, Json& rows, ExpertLayer& layer, const LayerSizes& s, ExpertForm form) {
  layer.use(form);
  const LayerErrors errors = layer.errors(kSamples);
  const Traffic t(s);
  const std::string shape =
      cat("N", s.tokens, " d", s.width, " m", s.cells, " k", s.active, " g", s.block_size, " bf16");
  const double forward = harness.median_seconds([&](Workspace&) -> Call { return [&] { layer.forward(); }; });
  rows.push_back(harness.to_json({.name = cat("sffn_forward_", name_of_form(form)),
                                  .shape = shape,
                                  .seconds = forward,
                                  .bytes = t.tables + 2 * t.rows + t.hidden,
                                  .flops = forward_flops(s, s.active),
                                  .tensor_cores = true,
                                  .predicted_seconds = predicted_seconds(harness, s, form, false),
                                  .error = errors.y,
                                  .memory_bytes = layer.memory_bytes()}));
  const double both = harness.median_seconds([&](Workspace&) -> Call {
    return [&] {
      layer.forward();
      layer.backward();
    };
  });
  rows.push_back(harness.to_json({.name = cat("sffn_forward_backward_", name_of_form(form)),
                                  .shape = shape,
                                  .seconds = both,
                                  .bytes = 6 * t.tables + 5 * t.rows + 2 * t.hidden,
                                  .flops = 3 * forward_flops(s, s.active),
                                  .tensor_cores = true,
                                  .predicted_seconds = predicted_seconds(harness, s, form, true),
                                  .error = std::max({errors.y, errors.dx, errors.tables}),
                                  .memory_bytes = layer.memory_bytes()}));
}

// A dense layer of as many cells as a token uses: what a sparse one can reach. Tensors of one set.
class DenseLayer {
 public:
  DenseLayer(Workspace& memory, const LayerSizes& s) : stream_(memory.stream()) {
    const Shape rows{s.tokens, s.width}, cells{s.tokens, s.active}, table{s.active, s.width};
    x_ = memory.normal(kAct, rows), dy_ = memory.normal(kAct, rows), y_ = memory.zero(kAct, rows);
    dx_ = memory.zero(kAct, rows), z_ = memory.zero(kAct, cells), h_ = memory.zero(kAct, cells);
    keys_ = memory.normal(kAct, table), values_ = memory.normal(kAct, table), dz_ = memory.zero(kAct, cells);
    dkeys_ = memory.zero(DType::kF32, table), dvalues_ = memory.zero(DType::kF32, table);
  }
  void forward() const {
    ops::matmul_activation_forward(stream_, h_, z_, x_, keys_, Tensor(), Tensor(), Activation::kGelu);
    multiply(y_, h_, values_);
  }
  void backward() const {
    ops::weight_gradient(stream_, dvalues_, Tensor(), dy_, h_, Transpose::kNo);
    ops::matmul_activation_backward(stream_, dz_, Tensor(), dy_, values_, z_, Tensor(), Activation::kGelu);
    ops::weight_gradient(stream_, dkeys_, Tensor(), dz_, x_, Transpose::kYes);
    multiply(dx_, dz_, keys_);
  }

 private:
  void multiply(const Tensor& c, const Tensor& a, const Tensor& b) const {
    ops::matmul(stream_, c, a, Transpose::kNo, b, Transpose::kNo, Tensor(), Accumulate::kNo);
  }
  Stream& stream_;
  Tensor x_, dy_, y_, dx_, z_, h_, dz_, keys_, values_, dkeys_, dvalues_;
};

void dense_rows(Harness& harness, Json& rows, const LayerSizes& s) {
  const std::string shape = cat("N", s.tokens, " d", s.width, " k", s.active, " bf16");
  for (const bool backward : {false, true}) {
    const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
      const auto layer = std::make_shared<DenseLayer>(memory, s);
      return [layer, backward] {
        layer->forward();
        if (backward) layer->backward();
      };
    });
    rows.push_back(harness.to_json({.name = backward ? "dense_ffn_forward_backward" : "dense_ffn_forward",
                                    .shape = shape,
                                    .seconds = seconds,
                                    .flops = (backward ? 3 : 1) * forward_flops(s, s.active),
                                    .tensor_cores = true}));
  }
}

}  // namespace

Json bench_expert_layer(Harness& harness, const std::vector<int64_t>& block_sizes, bool small) {
  LayerSizes sizes{.tokens = 65'536, .width = 1024, .cells = 65'536, .active = 4096, .block_size = 0};
  std::vector<int64_t> wanted = {64, 256, 1024, 128, 16, 4096};  // those that decide come first
  if (small) {
    sizes = {.tokens = 128, .width = 64, .cells = 512, .active = 64, .block_size = 0};
    wanted = {8, 16, 64};
  }
  if (!block_sizes.empty()) wanted = block_sizes;
  Json rows = Json::array();
  dense_rows(harness, rows, sizes);
  for (const int64_t block_size : wanted) {
    if (block_size < 1 || sizes.active % block_size != 0) {
      throw UsageError("--block-size", cat("is ", block_size, ", which does not divide ", sizes.active, " cells"));
    }
    sizes.block_size = block_size;
    ExpertLayer layer(harness.stream(), sizes, kAct);
    layer_rows(harness, rows, layer, sizes, ExpertForm::kGrouped);
    if (block_size <= 64) layer_rows(harness, rows, layer, sizes, ExpertForm::kMasked);
  }
  return rows;
}

}  // namespace sffn
