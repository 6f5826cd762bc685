#include "tools/bench/costs.h"

#include "core/arena.h"
#include "ffn/expert_compute.h"
#include "ffn/registry.h"
#include "kernels/ops.h"
#include "tools/bench/timing.h"

#include <cstdio>
#include <deque>
#include <vector>

namespace sffn {
namespace {

constexpr int64_t kTokens = 4096, kWidth = 256, kActive = 1024, kExpansion = 16;
constexpr int64_t kBlockSizes[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

// Choice i of token n: blocks shift + expansion·i, so that every block is chosen about equally often.
std::vector<int32_t> spread_choices(int64_t per_token) {
  std::vector<int32_t> blocks;
  for (int64_t n = 0; n < kTokens; ++n) {
    const auto shift = static_cast<int64_t>(mix64(static_cast<uint64_t>(n)) % kExpansion);
    for (int64_t i = 0; i < per_token; ++i) blocks.push_back(static_cast<int32_t>(shift + kExpansion * i));
  }
  return blocks;
}

// One layer's tables with everything that a pass needs.
class Layer {
 public:
  Layer(int64_t block_size, DType dtype) : stream_(cpu_runtime()) {
    shape_.cells = kActive * kExpansion;
    shape_.block_size = block_size;
    shape_.per_token = kActive / block_size;
    shape_.d_ff = kActive;
    ModelConfig model;
    model.d_model = kWidth;
    model.layers = 1;
    tables_ = BlockStore::add({.params = params_, .model = model}, shape_);
    params_.allocate(cpu_runtime(), dtype);
    gradients_ = Buffer(cpu_runtime(), {params_.flat_size()}, DType::kF32);
    params_.use_gradients(gradients_.tensor({params_.flat_size()}, DType::kF32));
    draw(tables_.keys->value, 1);
    draw(tables_.values->value, 2);
    for (Tensor* rows : {&x_, &dy_, &y_, &dx_}) *rows = allocate({kTokens, kWidth}, dtype);
    draw(x_, 3);
    draw(dy_, 4);
    const std::vector<int32_t> blocks = spread_choices(shape_.per_token);
    chosen_.blocks = chosen_.kept = allocate({kTokens, shape_.per_token}, DType::kI32);
    stream_.copy_to_device(chosen_.blocks, blocks.data());
  }

  double seconds(ExpertForm form) {
    constexpr size_t kArena = size_t{2} << 30;
    Arena saved(cpu_runtime(), "saved", kArena), scratch(cpu_runtime(), "scratch", kArena);
    Context ctx{.stream = stream_, .saved = saved, .scratch = scratch, .parallel = {}};
    const ExpertCompute compute(shape_, tables_, form, false);
    return median_seconds(0.5, [&] {
      saved.reset();
      ExpertCompute::Saved kept;
      compute.forward(ctx, y_, x_, chosen_, kept);
      compute.backward(ctx, dx_, Tensor(), dy_, x_, chosen_, kept);
    });
  }

 private:
  Tensor allocate(Shape shape, DType dtype) {
    return memory_.emplace_back(cpu_runtime(), shape, dtype).tensor(shape, dtype);
  }
  void draw(const Tensor& tensor, uint64_t stream) {
    const Buffer wide(cpu_runtime(), tensor.shape(), DType::kF32);
    const Tensor values = wide.tensor(tensor.shape(), DType::kF32);
    ops::random_normal(stream_, values, RandomKey{1, stream}, 0.1, false);
    ops::copy(stream_, tensor, values);
  }

  Stream stream_;
  ParamStore params_;
  Buffer gradients_;
  BlockShape shape_;
  BlockStore tables_;
  std::deque<Buffer> memory_;
  Tensor x_, dy_, y_, dx_;
  Selection chosen_;
};

}  // namespace

std::string measure_expert_costs(const std::function<void(const std::string&)>& progress) {
  std::string table =
      "// Written by `sffn bench ops --write-costs`: dtype, block size, time of a cell of the grouped form over that "
      "of a\n"
      "// cell of the masked form, forward and backward.\n";
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t block_size : kBlockSizes) {
      Layer layer(block_size, dtype);
      const double grouped = layer.seconds(ExpertForm::kGrouped), masked = layer.seconds(ExpertForm::kMasked);
      const double ratio = grouped / masked * static_cast<double>(kExpansion);
      char line[160];
      std::snprintf(line, sizeof line, "{DType::%s, %ld, %.2f},\n", dtype == DType::kF32 ? "kF32" : "kBF16",
                    static_cast<long>(block_size), ratio);
      table += line;
      std::snprintf(line, sizeof line, "%-4s g = %-5ld grouped %7.1f ms, masked %7.1f ms; ratio a cell %.2f",
                    dtype == DType::kF32 ? "f32" : "bf16", static_cast<long>(block_size), grouped * 1e3, masked * 1e3,
                    ratio);
      progress(line);
    }
  }
  return table;
}

}  // namespace sffn
