// Which form of the block product a layer takes, on a CPU and on a GPU.
#include "ffn/expert_form.h"

#include "ffn/method_model.h"
#include "ffn/registry.h"
#include "support/catch.h"

using namespace sffn;
using namespace sffn::test;

namespace {

// 65,536 cells, 4096 of them active.
BlockShape reference(int64_t block_size) {
  BlockShape shape;
  shape.cells = 65536;
  shape.block_size = block_size;
  shape.per_token = 4096 / block_size;
  return shape;
}

ExpertForm chosen(const BlockShape& shape, bool on_gpu, DType dtype = DType::kBF16) {
  return plan_experts(shape, std::nullopt, on_gpu, dtype).form;
}

}  // namespace

// Kills: costs of a CPU that choose for a GPU; products of small blocks that fill a sixteenth of their tiles.
TEST_CASE("a GPU takes dense products for blocks of fewer than 16 cells, and tiles from there on", "[ffn]") {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int64_t block_size : {1, 2, 4, 8})
      CHECK(chosen(reference(block_size), true, dtype) == ExpertForm::kMasked);
    for (const int64_t block_size : {16, 64, 128, 256, 1024, 4096}) {
      CHECK(chosen(reference(block_size), true, dtype) == ExpertForm::kGrouped);
    }
  }
  for (const int64_t block_size : {1, 16, 4096}) CHECK(chosen(reference(block_size), false) == ExpertForm::kGrouped);
}

// Kills: a gather of rows chosen where multiplying with all of them is faster, or dense products of a huge memory.
TEST_CASE("on a GPU few of many single cells are gathered", "[ffn]") {
  BlockShape shape = reference(1);
  shape.keys = false;
  shape.per_token = 128;
  CHECK(chosen(shape, true) == ExpertForm::kGrouped);
  shape.per_token = 512;
  CHECK(chosen(shape, true) == ExpertForm::kMasked);
  shape.cells = 1 << 20;
  CHECK(chosen(shape, true) == ExpertForm::kGrouped);
}

// Kills: a form that is given and not taken; chunks of a core's cache on a GPU.
TEST_CASE("a given form stands, and only a CPU sorts the choices of small blocks in chunks", "[ffn]") {
  for (const bool on_gpu : {false, true}) {
    for (const ExpertForm form : {ExpertForm::kMasked, ExpertForm::kGrouped}) {
      CHECK(plan_experts(reference(1), form, on_gpu, DType::kF32).form == form);
    }
    CHECK(plan_experts(reference(16), std::nullopt, on_gpu, DType::kF32).chunk > 65536);
  }
  CHECK(plan_experts(reference(8), std::nullopt, false, DType::kF32).chunk == 256);
  CHECK(plan_experts(reference(8), std::nullopt, true, DType::kF32).chunk > 65536);
}

// Kills: a resolved configuration that says what another backend would take.
TEST_CASE("a resolved configuration has the form of its backend", "[ffn]") {
  Config config = model_of(*find_ffn_method("sigma_moe"), Precision::kFp32);
  Json& entry = config.model.sparse_ffn.as_array()[0];
  entry["block_size"] = int64_t{4}, entry["active_cells"] = int64_t{4}, entry["expansion"] = int64_t{4};
  const auto form = [&] {
    return resolved_json(config).find("model")->find("sparse_ffn")->as_array()[0].find("expert_compute")->as_string();
  };
  CHECK(form() == "grouped");
  config.model.on_gpu = true;
  CHECK(form() == "masked");
}
