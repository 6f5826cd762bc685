// The block product of one sparse layer, alone, with balanced random choices: choice i of a token is one of the E
// blocks i·E … i·E + E - 1, so that blocks are chosen about equally often and independently.
#pragma once
#include "core/arena.h"
#include "ffn/expert_compute.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace sffn {

struct LayerSizes {
  int64_t tokens = 0, width = 0, cells = 0, active = 0, block_size = 0;  // N, D, M, k, G
  bool bias = false;

  int64_t expansion() const { return cells / active; }
  int64_t per_token() const { return active / block_size; }
  int64_t blocks() const { return cells / block_size; }
};

// ‖a - b‖ / ‖b‖ against f64 on the same rounded inputs: y and dx of some tokens, gradients of some cells.
struct LayerErrors {
  double y = 0, dx = 0, tables = 0;
};

class ExpertLayer {
 public:
  ExpertLayer(Stream& stream, const LayerSizes& sizes, DType dtype);

  // Takes arenas of exactly what the form needs.
  void use(ExpertForm form, bool plans_for_gpu = false);  // the latter on the meta device
  void forward();
  void backward();  // of the last forward(); gradients of the tables accumulate
  size_t memory_bytes() const;

  // Runs forward and backward once. About `samples` tokens and cells.
  LayerErrors errors(int64_t samples);

 private:
  struct Host;  // copies, as double
  struct Expected {
    std::vector<double> y, dx;
  };
  Context context() { return {.stream = stream_, .saved = *saved_, .scratch = *scratch_, .parallel = {}}; }
  Tensor allocate(const Shape& shape, DType dtype);
  void draw(const Tensor& tensor, uint64_t key, double std);
  std::vector<int32_t> choose() const;
  static Expected token_reference(const Host&, const LayerSizes&, Activation, int64_t token);
  double table_error(const Host&, int64_t samples);

  Stream& stream_;
  LayerSizes sizes_;
  DType dtype_;
  BlockShape shape_;
  ParamStore params_;
  Buffer gradients_;
  BlockStore tables_;
  std::deque<Buffer> memory_;
  Tensor x_, dy_, y_, dx_;
  std::vector<int32_t> blocks_;
  Selection chosen_;
  std::unique_ptr<Arena> saved_, scratch_;
  std::unique_ptr<ExpertCompute> compute_;
  ExpertCompute::Saved kept_;
};

}  // namespace sffn
