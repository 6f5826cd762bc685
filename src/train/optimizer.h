// AdamW over flat ranges of the parameters, sharded over the data-parallel ranks (ZeRO stage 1: Rajbhandari et al.,
// arXiv 1910.02054). Ranges are cut at chunk borders of ParamStore, so that norms and updates do not depend on them.
#pragma once
#include "comm/communicator.h"
#include "comm/tree.h"
#include "config/config.h"
#include "core/arena.h"
#include "core/params.h"
#include "core/stream.h"

#include <cstdint>
#include <vector>

namespace sffn {

// One range a rank in rank order, together [0, flat_size), nearly equal in elements. A rank may get an empty range.
std::vector<FlatRange> partition_flat(const ParamStore& params, int ranks);

class AdamW {
 public:
  // `range`, of flat indices, is what this rank updates. Moments start at zero; in bf16 the fp32 master copy of the
  // range's matrices is taken from the values by adopt_values().
  AdamW(const OptimizerConfig& config, ParamStore& params, FlatRange range, DeviceRuntime& runtime);

  const FlatRange& range() const { return range_; }
  void adopt_values(Stream& stream);
  // `grad` [range().count] of the accumulate type holds the range's gradients. numbers: ops::adamw.
  void update(Stream& stream, const Tensor& grad, const Tensor& numbers);

  // A parameter's share of the range. The tensors are flat views [end - begin] of fp32 (f64 in tests) on the device.
  struct Piece {
    const Param* param = nullptr;
    int64_t begin = 0, end = 0;  // elements of the parameter, padded rows included
    Tensor master, m, v;
    Tensor rounded;  // the bf16 value that follows master; absent where master is the value itself
  };
  const std::vector<Piece>& pieces() const { return pieces_; }  // in flat order
  size_t bytes() const { return moments_.bytes() + master_.bytes(); }

 private:
  // Neighbours in flat order of one storage and one weight decay, updated as one: the gaps between are zeros and stay
  // so.
  struct Run {
    bool is_matrix = false, decays = false;
    FlatRange flat;
  };
  void update_run(Stream& stream, const Run& run, const Tensor& grad, const Tensor& numbers);

  const OptimizerConfig config_;
  const ParamStore* params_;
  FlatRange range_;
  Buffer moments_, master_;
  Tensor m_, v_, matrices_master_;  // of the range; the master of values that are rounded
  std::vector<Piece> pieces_;
  std::vector<Run> runs_;
};

// How many chunks begin within the range.
int64_t chunk_count(const ParamStore& params, FlatRange range);
// sums [chunk_count] f64 = Σ g² of each of them, in flat order; grad [range.count].
void chunk_square_sums(Stream& stream, Tensor sums, const ParamStore& params, FlatRange range, const Tensor& grad);

// After an update every rank receives the other ranks' values. Collective.
void gather_values(Stream& stream, Communicator& data, ParamStore& params, const std::vector<FlatRange>& ranges);

}  // namespace sffn
