// The measurements of `sffn bench ops` (harness.h says how). Each group returns rows of Harness::to_json.
#pragma once
#include "config/config.h"
#include "core/json.h"
#include "tools/bench/harness.h"

#include <string>
#include <vector>

namespace sffn {

struct BenchOptions {
  Config config;  // the model, precision and micro-batch that are measured
  Effort effort;
  std::vector<std::string> groups;   // A, B, C, D; empty: the model's own ops
  std::vector<int64_t> block_sizes;  // of group D; empty: all
  bool small = false;                // groups at sizes that try the program, not the machine
};

// Without groups: every matrix product that one micro-batch of forward and backward really runs (counted on the meta
// device), each shape alone; "gemm_bound_ms" is their sum: the time of a step in which nothing else costs anything.
// Then the rates of the memory-bound ops and of attention at the model's shapes.
//   {"device", "kernels", "threads", "precision", "tokens",
//    "matmul": [row and {"M", "N", "K", "transpose_a", "transpose_b", "bias", "accumulate", "input", "output", "count",
//                "gflops"}],
//    "gemm_flops", "gemm_bound_ms", "gemm_gflops",
//    "ops": [row]}
// With groups: {"device", …, "groups": {"A": [row], …}}.
// Throws UsageError for a model that cannot be built, and for an unknown group.
Json bench_ops(const BenchOptions&, DeviceRuntime&);
std::string format_bench_ops(const Json&);  // the same as a table

// The row of a product, and its JSON with the keys of "matmul" above but count.
BenchRow time_matmul(Harness&, const MatmulShape&);
Json matmul_json(const Harness&, const BenchRow&, const MatmulShape&);

// The rates of a model's memory-bound ops and of its attention.
Json bench_model_ops(Harness&, const Config&);

// A: what the device gives at most: copies, random rows, reductions, a large product, the model's products.
Json bench_ceilings(Harness&, const Config&, bool small);
// B: attention. C: ops bound by memory.
Json bench_attention(Harness&, bool small);
Json bench_memory_bound(Harness&, bool small);
// D: the block product alone, every granularity, forward and with its backward pass, with its error against f64.
Json bench_expert_layer(Harness&, const std::vector<int64_t>& block_sizes, bool small);

}  // namespace sffn
