// Group A: what the device gives at most, and the model's matrix products.
#include "core/random.h"
#include "kernels/ops.h"
#include "model/memory_plan.h"
#include "tools/bench/bench.h"

#if SFFN_HAS_CUDA
#include "kernels/cuda/ceilings.h"
#endif

namespace sffn {
namespace {

constexpr DType kAct = DType::kBF16;

void copy_row(Harness& harness, Json& rows, int64_t elements) {
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor from = memory.normal(kAct, {elements}), to = memory.zero(kAct, {elements});
    return [=, &harness] { ops::copy(harness.stream(), to, from); };
  });
  rows.push_back(harness.to_json({.name = "copy",
                                  .shape = cat(elements, " bf16"),
                                  .seconds = seconds,
                                  .bytes = 4 * static_cast<double>(elements)}));
}

#if SFFN_HAS_CUDA
std::vector<int32_t> random_rows(int64_t count, int64_t rows) {
  std::vector<int32_t> index;
  for (int64_t i = 0; i < count; ++i) {
    index.push_back(static_cast<int32_t>(mix64(static_cast<uint64_t>(i)) % static_cast<uint64_t>(rows)));
  }
  return index;
}

// Each of them once.
std::vector<int32_t> shuffled_rows(int64_t rows) {
  const Permutation order(RandomKey{1, 1}, static_cast<uint64_t>(rows));
  std::vector<int32_t> index;
  for (int64_t i = 0; i < rows; ++i) index.push_back(static_cast<int32_t>(order(static_cast<uint64_t>(i))));
  return index;
}

std::vector<int32_t> rows_in_order(int64_t count, int64_t rows) {
  std::vector<int32_t> index;
  for (int64_t i = 0; i < count; ++i) index.push_back(static_cast<int32_t>(i % rows));
  return index;
}

// `count` rows of 2 KiB of a table of `table` rows. in_cache: no bandwidth of memory bounds the row.
void read_row(Harness& harness, Json& rows, const char* name, int64_t table, const std::vector<int32_t>& index,
              bool in_cache) {
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor from = memory.normal(kAct, {table, cuda::kCeilingRowBytes / 2});
    const Tensor seen = memory.zero(DType::kI32, {cuda::kReaders, 128}), chosen = memory.indices(index);
    return [=, &harness] { cuda::read_rows(harness.stream(), seen, from, chosen); };
  });
  Json row = harness.to_json({.name = name,
                              .shape = cat(index.size(), " of ", table, "x1024 bf16"),
                              .seconds = seconds,
                              .bytes = static_cast<double>(index.size()) * cuda::kCeilingRowBytes});
  if (in_cache) row["roofline_ms"] = row["of_roofline"] = row["predicted_ms"] = row["of_predicted"] = Json();
  rows.push_back(row);
}

void add_row(Harness& harness, Json& rows, DType dtype, cuda::RowReduction reduction, int64_t table,
             const std::vector<int32_t>& index) {
  const int64_t columns = cuda::kCeilingRowBytes / static_cast<int64_t>(size_of(dtype));
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor to = memory.zero(dtype, {table, columns}), from = memory.normal(dtype, {64, columns});
    const Tensor chosen = memory.indices(index);
    return [=, &harness] { cuda::add_rows(harness.stream(), to, from, chosen, reduction); };
  });
  Json row =
      harness.to_json({.name = reduction == cuda::RowReduction::kBulk ? "reduce_rows_bulk" : "reduce_rows_vector",
                       .shape = cat(index.size(), " to ", table, "x", columns, " ", name_of(dtype)),
                       .seconds = seconds,
                       .bytes = static_cast<double>(index.size()) * cuda::kCeilingRowBytes});
  row["roofline_ms"] = row["of_roofline"] = row["predicted_ms"] = row["of_predicted"] = Json();  // in L2
  rows.push_back(row);
}

// Rows of a table of 134 MB come from memory, of 16 MB from L2, read in order or at random. What is added goes to L2.
void row_rates(Harness& harness, Json& rows, bool small) {
  const int64_t large = small ? 256 : 65'536, cached = small ? 64 : 8192, many = small ? 512 : 262'144;
  read_row(harness, rows, "gather_rows", large, shuffled_rows(large), false);
  read_row(harness, rows, "gather_rows_in_l2", cached, random_rows(many, cached), true);
  read_row(harness, rows, "read_l2", cached, rows_in_order(many, cached), true);
  if (!cuda::can_add_rows(harness.stream())) return;  // no vector or bulk reductions before compute capability 9.0
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto reduction : {cuda::RowReduction::kVector, cuda::RowReduction::kBulk}) {
      add_row(harness, rows, dtype, reduction, cached, random_rows(many, cached));
    }
  }
}
#endif

}  // namespace

Json bench_ceilings(Harness& harness, const Config& config, bool small) {
  Json rows = Json::array();
  copy_row(harness, rows, small ? 1 << 16 : int64_t{1} << 28);
#if SFFN_HAS_CUDA
  if (harness.stream().is_cuda()) row_rates(harness, rows, small);
#endif
  const int64_t side = small ? 64 : 8192;
  const MatmulShape square{side, side, side, false, true, false, false, kAct, kAct};
  rows.push_back(harness.to_json(time_matmul(harness, square)));
  const MemoryPlan plan =
      measure_memory(config, config.train.micro_batch, config.model.context, harness.stream().runtime());
  for (const auto& [shape, count] : plan.train.work.matmuls) {
    if (!(shape == square)) rows.push_back(matmul_json(harness, time_matmul(harness, shape), shape));
  }
  return rows;
}

}  // namespace sffn
