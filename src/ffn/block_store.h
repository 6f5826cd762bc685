// The memory of a sparse layer: M = B·G cells, one row a cell in each table, so that block i is the slab of rows
// [i·G, (i+1)·G) (methods.md section 1). Of R expert ranks each holds B/R blocks, those at its place of every
// sub-layer.
#pragma once
#include "config/config.h"
#include "core/params.h"
#include "ffn/dispatch.h"
#include "ffn/ffn.h"
#include "kernels/types.h"

#include <cstdint>

namespace sffn {

struct FfnBuild;

// Sizes and form of a sparse layer, read and checked.
struct BlockShape {
  int64_t cells = 0;       // M
  int64_t block_size = 0;  // G
  int64_t sub_layers = 1;  // parts of the cells, one after another, as many blocks in each
  int64_t per_token = 0;   // b: chosen blocks of a token; of heads together, which may choose alike
  int64_t key_rank = 0;    // width of a key; 0: the model's
  int64_t d_ff = 0;        // of the dense layer it stands for; M = expansion · d_ff
  Activation activation = Activation::kGelu;
  bool keys = true;  // false: values alone
  bool gated = false;
  bool bias = true;

  BlockShape of(const ExpertShare& share) const {  // as one rank sees it
    BlockShape local = *this;
    local.cells = share.rows(cells).count;
    return local;
  }
  int64_t blocks() const { return cells / block_size; }            // B
  int64_t shared_blocks() const { return blocks() / sub_layers; }  // what expert ranks share: every sub-layer has them
  int64_t active_cells() const { return per_token * block_size; }  // k
  int64_t key_width(int64_t d) const { return key_rank > 0 ? key_rank : d; }
};

// The tables of one layer. Their initial standard deviations are those of the dense layer under gpt's scheme,
// independent of G and the expansion.
struct BlockStore {
  Param* keys = nullptr;        // [M, D], or [M, key rank]; absent for pkm
  Param* key_bias = nullptr;    // [M], with biases
  Param* gate_keys = nullptr;   // [M, D], with a gated activation
  Param* values = nullptr;      // [M, D]
  Param* value_bias = nullptr;  // [D], with biases; on every rank
  ExpertShare share;            // of the rows [M] above, where blocks are spread

  // Registers layers.LAYER.ffn.{keys, gate_keys, values}.
  static BlockStore add(const FfnBuild&, const BlockShape&);
};

// Tables and the FFN norm: parameters in all, and of those the ones a token uses.
FfnCost table_cost(const ModelConfig&, const BlockShape&);

}  // namespace sffn
