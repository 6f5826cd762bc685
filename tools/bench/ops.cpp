#include "kernels/ops.h"

#include "kernels/cpu/capabilities.h"
#include "model/memory_plan.h"
#include "nn/host_values.h"
#include "tools/bench/bench.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include <iomanip>
#include <sstream>

namespace sffn {
namespace {

int thread_count() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

std::string shape_text(const MatmulShape& s) {
  return cat(s.M, "x", s.N, "x", s.K, " ", s.transpose_a ? "T" : "N", s.transpose_b ? "T" : "N", s.bias ? " bias" : "",
             s.accumulate ? " added" : "", " ", name_of(s.input),
             s.output != s.input ? cat(" to ", name_of(s.output)) : "");
}

void bench_matmuls(Harness& harness, const OpCounter& work, Json& out) {
  Json rows = Json::array();
  double total = 0;
  for (const auto& [shape, count] : work.matmuls) {
    const BenchRow timed = time_matmul(harness, shape);
    total += timed.seconds * static_cast<double>(count);
    Json row = matmul_json(harness, timed, shape);
    row["count"] = count;
    rows.push_back(row);
  }
  out["matmul"] = std::move(rows);
  out["gemm_flops"] = work.matmul_flops;
  out["gemm_bound_ms"] = 1e3 * total;
  out["gemm_gflops"] = 1e-9 * work.matmul_flops / total;
}

Json bench_group(Harness& harness, const BenchOptions& options, const std::string& group) {
  if (group == "A") return bench_ceilings(harness, options.config, options.small);
  if (group == "B") return bench_attention(harness, options.small);
  if (group == "C") return bench_memory_bound(harness, options.small);
  if (group == "D") return bench_expert_layer(harness, options.block_sizes, options.small);
  throw UsageError("--group", cat("\"", group, "\" is not known; known: A, B, C, D"));
}

}  // namespace

BenchRow time_matmul(Harness& harness, const MatmulShape& s) {
  const auto transposed = [](bool is) { return is ? Transpose::kYes : Transpose::kNo; };
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor a = memory.normal(s.input, s.transpose_a ? Shape{s.K, s.M} : Shape{s.M, s.K});
    const Tensor b = memory.normal(s.input, s.transpose_b ? Shape{s.N, s.K} : Shape{s.K, s.N});
    const Tensor bias = s.bias ? memory.normal(accumulate_type(s.input), {s.N}) : Tensor();
    const Tensor c = memory.zero(s.output, {s.M, s.N});
    return [=, &harness] {
      ops::matmul(harness.stream(), c, a, transposed(s.transpose_a), b, transposed(s.transpose_b), bias,
                  s.accumulate ? Accumulate::kYes : Accumulate::kNo);
    };
  });
  const auto bytes = [](DType dtype, int64_t rows, int64_t columns) {
    return static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(size_of(dtype));
  };
  return {
      .name = "matmul",
      .shape = shape_text(s),
      .seconds = seconds,
      .bytes = bytes(s.input, s.M, s.K) + bytes(s.input, s.K, s.N) + bytes(s.output, s.M, s.N) * (s.accumulate ? 2 : 1),
      .flops = 2.0 * static_cast<double>(s.M) * static_cast<double>(s.N) * static_cast<double>(s.K),
      .tensor_cores = s.input == DType::kBF16};
}

Json matmul_json(const Harness& harness, const BenchRow& row, const MatmulShape& s) {
  Json json = harness.to_json(row);
  json["M"] = s.M;
  json["N"] = s.N;
  json["K"] = s.K;
  json["transpose_a"] = s.transpose_a;
  json["transpose_b"] = s.transpose_b;
  json["bias"] = s.bias;
  json["accumulate"] = s.accumulate;
  json["input"] = name_of(s.input);
  json["output"] = name_of(s.output);
  json["gflops"] = 1e-9 * row.flops / row.seconds;
  return json;
}

Json bench_ops(const BenchOptions& options, DeviceRuntime& runtime) {
  const Config& config = options.config;
  const int64_t batch = config.train.micro_batch, time = config.model.context;
  Harness harness(runtime, options.effort);
  Json out;
  out["device"] = runtime.name();
  out["kernels"] = cpu::describe_cpu_kernels();
  out["threads"] = thread_count();
  out["precision"] = name_of(config.dtype());
  out["tokens"] = batch * time;
  if (options.groups.empty()) {
    bench_matmuls(harness, measure_memory(config, batch, time, runtime).train.work, out);
    out["ops"] = bench_model_ops(harness, config);
    return out;
  }
  Json groups = Json::object();
  for (const std::string& group : options.groups) groups[group] = bench_group(harness, options, group);
  out["groups"] = std::move(groups);
  return out;
}

std::string format_bench_ops(const Json& result) {
  std::ostringstream out;
  out << result.find("device")->as_string() << "; " << result.find("kernels")->as_string() << ", "
      << result.find("threads")->as_int() << " threads, " << result.find("precision")->as_string() << ", "
      << result.find("tokens")->as_int() << " tokens\n\n";
  if (const Json* groups = result.find("groups")) {
    for (const Json::Member& group : groups->as_object()) {
      out << "group " << group.key << "\n" << format_rows(group.value) << "\n";
    }
    return out.str();
  }
  for (const Json& row : result.find("matmul")->as_array()) {
    out << std::setw(5) << row.find("count")->as_int() << " x " << format_rows(Json(Json::Array{row}));
  }
  out << std::fixed << std::setprecision(3)
      << "\nall matrix products of a micro-batch: " << result.find("gemm_bound_ms")->as_double() << " ms, "
      << result.find("gemm_gflops")->as_double() << " GFLOP/s\n\n"
      << format_rows(*result.find("ops"));
  return out.str();
}

}  // namespace sffn
