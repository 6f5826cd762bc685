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
  const auto vector = [&](const char* what, int64_t count) {
    return &build.params.add({.name = name + what, .shape = {count}, .storage = Storage::kVector});
  };
  BlockStore tables;
  if (shape.keys) {
    tables.keys = &build.params.add(
        {.name = name + "keys.weight", .shape = {shape.cells, key_width}, .init = matrix_init(build.model, key_width)});
    if (shape.bias) tables.key_bias = vector("keys.bias", shape.cells);
  }
  if (shape.gated) {
    tables.gate_keys = &build.params.add(
        {.name = name + "gate_keys.weight", .shape = {shape.cells, d}, .init = matrix_init(build.model, d)});
  }
  tables.values = &build.params.add({.name = name + "values.weight",
                                     .shape = {shape.cells, d},
                                     .init = branch_output_init(build.model, shape.cells)});
  if (shape.bias) tables.value_bias = vector("values.bias", d);
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
