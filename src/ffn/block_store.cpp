#include "ffn/block_store.h"

#include "ffn/registry.h"
#include "nn/init.h"
#include "nn/norm.h"

#include <algorithm>

namespace sffn {

BlockStore BlockStore::add(const FfnBuild& build, const BlockShape& shape) {
  const int64_t d = build.model.d_model;
  const std::string name = cat("layers.", build.layer, ".ffn.");
  const int64_t key_width = shape.key_width(d);
  ParamStore& params = build.share.spread() ? *build.blocks : build.params;
  const RowRange held = build.share.spread() ? build.share.rows(shape.cells / shape.sub_layers) : RowRange{};
  const auto table = [&](const char* what, int64_t width, const Init& init) {
    return &params.add({.name = name + what,
                        .shape = {shape.cells, width},
                        .init = init,
                        .parts = shape.sub_layers,
                        .held = held,
                        .block_rows = shape.block_size});
  };
  BlockStore tables;
  tables.share = build.share;
  if (shape.keys) {
    tables.keys = table("keys.weight", key_width, matrix_init(build.model, key_width));
    if (shape.bias) {
      tables.key_bias = &params.add({.name = name + "keys.bias",
                                     .shape = {shape.cells},
                                     .storage = Storage::kVector,
                                     .parts = shape.sub_layers,
                                     .held = held,
                                     .block_rows = shape.block_size});
    }
  }
  if (shape.gated) tables.gate_keys = table("gate_keys.weight", d, matrix_init(build.model, d));
  tables.values = table("values.weight", d, branch_output_init(build.model, shape.cells));
  if (shape.bias) {
    tables.value_bias = &build.params.add({.name = name + "values.bias", .shape = {d}, .storage = Storage::kVector});
  }
  return tables;
}

FfnCost table_cost(const ModelConfig& model, const BlockShape& shape) {
  const int64_t d = model.d_model;
  const int64_t row = (shape.keys ? shape.key_width(d) : 0) + (shape.gated ? 2 : 1) * d;  // of all tables
  const int64_t per_cell = row + (shape.keys && shape.bias ? 1 : 0);
  const int64_t unused = std::max<int64_t>(0, shape.cells - shape.active_cells());
  FfnCost cost;
  cost.parameters = shape.cells * per_cell + (shape.bias ? d : 0) + norm_parameters(model);
  cost.active_parameters = cost.parameters - unused * per_cell;
  cost.flops_per_token = static_cast<double>(2 * shape.active_cells() * row);
  return cost;
}

}  // namespace sffn
