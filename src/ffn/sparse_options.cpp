#include "config/names.h"
#include "ffn/sparse_ffn.h"

#include <cmath>

namespace sffn {
namespace {

enum class FormChoice : uint8_t { kAuto, kMasked, kGrouped };
constexpr Named<FormChoice> kFormNames[] = {
    {"auto", FormChoice::kAuto}, {"masked", FormChoice::kMasked}, {"grouped", FormChoice::kGrouped}};

// "cells", or "expansion" times d_ff.
int64_t read_cells(ConfigReader& reader, int64_t d_ff) {
  const auto cells =
      reader.derived<int64_t>("cells", "expansion · d_ff", "Cells of the layer's memory, m.", kAtLeastOne);
  const auto expansion = reader.derived<double>("expansion", "cells / d_ff", "Cells over d_ff, E.", kAtLeastOne);
  if (reader.collecting()) return 1;
  if (cells && expansion) reader.fail("cells", "and expansion are both given; give one");
  if (!cells && !expansion) reader.fail("expansion", "is missing, and so is cells; give one");
  const auto resolved = [&](int64_t count) {
    reader.resolve("cells", count);
    return count;
  };
  if (cells) {
    if (*cells < d_ff) reader.fail("cells", cat("is ", *cells, ", an expansion below 1 of d_ff ", d_ff));
    return resolved(*cells);
  }
  const double product = *expansion * static_cast<double>(d_ff);
  if (product != std::floor(product)) {
    reader.fail("expansion", cat("times d_ff is ", product, "; a whole number of cells is expected"));
  }
  return resolved(static_cast<int64_t>(product));
}

// "active_blocks", or "active_cells" over the block size; as many cells as the dense layer has by default.
int64_t read_active_blocks(ConfigReader& reader, const BlockShape& shape) {
  const auto cells = reader.derived<int64_t>("active_cells", "d_ff", "Cells that one token uses, k.", kAtLeastOne);
  const auto blocks = reader.derived<int64_t>("active_blocks", "active_cells / block_size",
                                              "Blocks that one token uses, b.", kAtLeastOne);
  if (reader.collecting()) return 1;
  if (cells && blocks) reader.fail("active_cells", "and active_blocks are both given; give one");
  const int64_t k = blocks ? *blocks * shape.block_size : cells.value_or(shape.d_ff);
  if (k % shape.block_size != 0) {
    reader.fail(cells ? "active_cells" : "block_size",
                cat("does not fit: ", k, " active cells are no multiple of the block size ", shape.block_size));
  }
  if (k > shape.cells) {
    reader.fail(blocks ? "active_blocks" : "active_cells",
                cat("asks for ", k / shape.block_size, " blocks of ", shape.blocks(), "; at most all of them"));
  }
  reader.resolve("active_cells", k);
  return k / shape.block_size;
}

int64_t read_block_size(ConfigReader& reader, const SparseRules& rules) {
  const char* const meaning = "Cells that are chosen together, g.";
  if (!rules.block_size) return reader.required<int64_t>("block_size", meaning, kAtLeastOne);
  const int64_t fixed = *rules.block_size, given = reader.optional<int64_t>("block_size", fixed, meaning, kAtLeastOne);
  if (given != fixed) reader.fail("block_size", cat("is ", given, "; this method chooses cells in blocks of ", fixed));
  return fixed;
}

}  // namespace

SparseOptions parse_sparse(ConfigReader& reader, const ModelConfig& model, const SparseRules& rules) {
  SparseOptions options;
  options.on_gpu = model.on_gpu;
  BlockShape& shape = options.shape;
  shape.d_ff = reader.derived<int64_t>("d_ff", "model.ffn.d_ff", "Cells of the dense layer it stands for.", kAtLeastOne)
                   .value_or(model.ffn.d_ff);
  reader.resolve("d_ff", shape.d_ff);
  shape.cells = read_cells(reader, shape.d_ff);
  shape.block_size = read_block_size(reader, rules);
  if (!reader.collecting() && shape.cells % shape.block_size != 0) {
    reader.fail("block_size", cat("is ", shape.block_size, ", which does not divide the ", shape.cells, " cells"));
  }
  if (reader.collecting()) shape.block_size = 1;
  shape.per_token = read_active_blocks(reader, shape);
  shape.keys = rules.has_keys;
  if (shape.keys) {
    const ActivationChoice inherited{model.ffn.activation, model.ffn.gated};
    const ActivationChoice choice =
        reader.one_of("activation", kActivationNames, inherited, "f of h = f(x·Kᵀ).", "model.ffn.activation");
    shape.activation = choice.activation;
    shape.gated = choice.gated;
  }
  shape.bias = rules.may_have_bias &&
               reader.derived<bool>("bias", "model.ffn.bias", "Biases of keys and values.").value_or(model.ffn.bias);
  if (rules.may_have_bias) reader.resolve("bias", shape.bias);
  const FormChoice form =
      reader.one_of("expert_compute", kFormNames, FormChoice::kAuto,
                    "Form of the block product: all cells with the unchosen zeroed, or only the chosen "
                    "blocks; auto: the cheaper by measured costs.");
  if (form == FormChoice::kMasked) options.form = ExpertForm::kMasked;
  if (form == FormChoice::kGrouped) options.form = ExpertForm::kGrouped;
  return options;
}

}  // namespace sffn
