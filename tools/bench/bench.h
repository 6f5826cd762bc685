// The measurements of `sffn bench`. Times are medians over repeats after a warm-up, on random data, through ops::.
#pragma once
#include "config/config.h"
#include "core/json.h"

#include <string>

namespace sffn {

struct BenchOptions {
  Config config;                 // the model, precision and micro-batch that are measured
  double seconds_per_op = 0.25;  // an op repeats for at least this long, and at least five times
};

// Every matrix product that one micro-batch of forward and backward really runs (counted on the meta device), each
// shape alone; "gemm_bound_ms" is their sum: the time of a step in which nothing else costs anything. Then the rates of
// the memory-bound ops (GB/s of what they must read and write) and of attention (GFLOP/s), each at the model's shapes.
//   {"kernels", "threads", "precision", "tokens",
//    "matmul": [{"M", "N", "K", "transpose_a", "transpose_b", "bias", "accumulate", "input", "output", "count", "ms",
//                "gflops"}],
//    "gemm_flops", "gemm_bound_ms", "gemm_gflops",
//    "ops": [{"op", "shape", "ms", "gb_per_s" | "gflops"}]}
// Throws UsageError for a model that cannot be built.
Json bench_ops(const BenchOptions&);
std::string format_bench_ops(const Json&);  // the same as a table

}  // namespace sffn
