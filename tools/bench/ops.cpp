#include "kernels/ops.h"

#include "core/buffer.h"
#include "core/stream.h"
#include "kernels/cpu/capabilities.h"
#include "model/memory_plan.h"
#include "nn/host_values.h"
#include "tools/bench/bench.h"
#include "tools/bench/timing.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include <cmath>
#include <deque>
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

// Tensors with their memory, normal random or zero.
class Workspace {
 public:
  explicit Workspace(Stream& stream) : stream_(stream) {}

  Tensor normal(DType dtype, Shape shape) {
    Tensor tensor = zero(dtype, shape);
    ops::random_normal(stream_, tensor, RandomKey{1, buffers_.size()}, 1.0, false);
    return tensor;
  }
  Tensor zero(DType dtype, Shape shape) {
    return buffers_.emplace_back(stream_.runtime(), shape, dtype).tensor(shape, dtype);
  }

 private:
  Stream& stream_;
  std::deque<Buffer> buffers_;
};

struct Bench {
  const BenchOptions& options;
  Stream stream{cpu_runtime()};

  template <class Run>
  double seconds(Run&& run) {
    return median_seconds(options.seconds_per_op, std::forward<Run>(run));
  }
};

double flops_of(const MatmulShape& s) {
  return 2.0 * static_cast<double>(s.M) * static_cast<double>(s.N) * static_cast<double>(s.K);
}

double time_matmul(Bench& bench, const MatmulShape& s) {
  Workspace memory(bench.stream);
  const Tensor a = memory.normal(s.input, s.transpose_a ? Shape{s.K, s.M} : Shape{s.M, s.K});
  const Tensor b = memory.normal(s.input, s.transpose_b ? Shape{s.N, s.K} : Shape{s.K, s.N});
  const Tensor bias = s.bias ? memory.normal(accumulate_type(s.input), {s.N}) : Tensor();
  const Tensor c = memory.zero(s.output, {s.M, s.N});
  return bench.seconds([&] {
    ops::matmul(bench.stream, c, a, s.transpose_a ? Transpose::kYes : Transpose::kNo, b,
                s.transpose_b ? Transpose::kYes : Transpose::kNo, bias,
                s.accumulate ? Accumulate::kYes : Accumulate::kNo);
  });
}

void bench_matmuls(Bench& bench, const OpCounter& work, Json& out) {
  Json rows = Json::array();
  double total = 0;
  for (const auto& [shape, count] : work.matmuls) {
    const double seconds = time_matmul(bench, shape);
    total += seconds * static_cast<double>(count);
    rows.push_back(Json::Object{{"M", shape.M},
                                {"N", shape.N},
                                {"K", shape.K},
                                {"transpose_a", shape.transpose_a},
                                {"transpose_b", shape.transpose_b},
                                {"bias", shape.bias},
                                {"accumulate", shape.accumulate},
                                {"input", name_of(shape.input)},
                                {"output", name_of(shape.output)},
                                {"count", count},
                                {"ms", 1e3 * seconds},
                                {"gflops", 1e-9 * flops_of(shape) / seconds}});
  }
  out["matmul"] = std::move(rows);
  out["gemm_flops"] = work.matmul_flops;
  out["gemm_bound_ms"] = 1e3 * total;
  out["gemm_gflops"] = 1e-9 * work.matmul_flops / total;
}

// The rates of the ops that are not matrix products.
class OpRates {
 public:
  OpRates(Bench& bench, int64_t batch) : bench_(bench), config_(bench.options.config), batch_(batch) {}

  Json run() {
    add_norm();
    activation();
    cross_entropy();
    attention();
    adamw();
    return std::move(rows_);
  }

 private:
  int64_t tokens() const { return batch_ * config_.model.context; }
  Stream& stream() { return bench_.stream; }

  template <class Run>
  void bytes(const char* op, const Shape& shape, size_t moved, Run&& run) {
    add(op, shape, "gb_per_s", 1e-9 * static_cast<double>(moved), bench_.seconds(run));
  }
  void add(const char* op, const Shape& shape, const char* unit, double work, double seconds) {
    rows_.push_back(Json::Object{{"op", op}, {"shape", shape.str()}, {"ms", 1e3 * seconds}, {unit, work / seconds}});
  }

  void add_norm() {
    Workspace memory(stream());
    const Shape x_shape{tokens(), config_.model.d_model}, column{config_.model.d_model}, row{tokens()};
    const Tensor sum = memory.normal(act_, x_shape), pending = memory.normal(act_, x_shape);
    const Tensor out = memory.zero(act_, x_shape), y = memory.zero(act_, x_shape), dh = memory.zero(act_, x_shape);
    const bool layer_norm = config_.model.norm == Norm::kLayer;
    const Tensor mean = layer_norm ? memory.zero(acc_, row) : Tensor(), rstd = memory.zero(acc_, row);
    const Tensor weight = memory.normal(acc_, column), dweight = memory.zero(acc_, column);
    const Tensor bias = layer_norm ? memory.normal(acc_, column) : Tensor();
    const Tensor dbias = layer_norm ? memory.zero(acc_, column) : Tensor();
    bytes("add_norm_forward", x_shape, 4 * sum.bytes(), [&] {
      ops::add_norm_forward(stream(), out, y, mean, rstd, sum, pending, weight, bias, config_.model.norm_eps);
    });
    bytes("add_norm_backward", x_shape, 4 * sum.bytes(),
          [&] { ops::add_norm_backward(stream(), dh, dweight, dbias, y, out, mean, rstd, weight); });
  }

  void activation() {
    Workspace memory(stream());
    const FfnConfig& ffn = config_.model.ffn;
    const Shape shape{tokens(), ffn.d_ff > 0 ? ffn.d_ff : 4 * config_.model.d_model};
    const Tensor z = memory.normal(act_, shape), h = memory.zero(act_, shape), dh = memory.normal(act_, shape);
    bytes("activation_forward", shape, 2 * z.bytes(),
          [&] { ops::activation_forward(stream(), h, z, Tensor(), ffn.activation); });
    bytes("activation_backward", shape, 3 * z.bytes(),
          [&] { ops::activation_backward(stream(), h, Tensor(), dh, z, Tensor(), ffn.activation); });
    const Tensor column = memory.zero(acc_, {shape[1]});
    bytes("column_sum", shape, z.bytes(), [&] { ops::column_sum(stream(), column, z); });
  }

  void cross_entropy() {
    Workspace memory(stream());
    const Shape shape{std::min<int64_t>(tokens(), 512), config_.model.padded_vocab()};
    const Tensor logits = memory.normal(act_, shape), losses = memory.zero(acc_, {shape[0]});
    const Tensor targets = memory.zero(DType::kI32, {shape[0]});
    bytes("cross_entropy", shape, 2 * logits.bytes(),
          [&] { ops::cross_entropy(stream(), losses, logits, targets, config_.model.vocab_size, 1.0, true); });
  }

  // The forward pass multiplies twice per score (q·k, p·v), the backward pass five times; causal: half the square.
  void attention() {
    Workspace memory(stream());
    const ModelConfig& m = config_.model;
    const AttentionShape shape{batch_,     m.context,  m.heads,
                               m.kv_heads, m.head_dim, 1.0 / std::sqrt(static_cast<double>(m.head_dim))};
    const Tensor qkv = memory.normal(act_, {tokens(), shape.qkv_width()});
    const Tensor out = memory.zero(act_, {tokens(), shape.out_width()});
    const Tensor dout = memory.normal(act_, out.shape()), dqkv = memory.zero(act_, qkv.shape());
    const Tensor lse = memory.zero(acc_, {batch_, m.heads, m.context});
    const double product = 1e-9 * static_cast<double>(tokens() * m.context) * static_cast<double>(shape.out_width());
    add("attention_forward", qkv.shape(), "gflops", 2 * product,
        bench_.seconds([&] { ops::attention_forward(stream(), out, lse, qkv, Tensor(), shape, Dropout{}); }));
    add("attention_backward", qkv.shape(), "gflops", 5 * product, bench_.seconds([&] {
      ops::attention_backward(stream(), dqkv, dout, out, lse, qkv, Tensor(), shape, Dropout{});
    }));
  }

  void adamw() {
    Workspace memory(stream());
    const Shape shape{int64_t{1} << 23};
    const Tensor master = memory.normal(acc_, shape), grad = memory.normal(acc_, shape);
    const Tensor m = memory.zero(acc_, shape), v = memory.zero(acc_, shape);
    const Tensor rounded = act_ == DType::kBF16 ? memory.zero(act_, shape) : Tensor();
    const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    const Tensor numbers = memory.zero(DType::kF64, {update::kCount});
    write_values(stream(), numbers, std::vector<double>(update::kCount, 1));
    bytes("adamw", shape, 7 * master.bytes() + rounded.bytes(),
          [&] { ops::adamw(stream(), master, rounded, m, v, grad, numbers, options); });
  }

  Bench& bench_;
  const Config& config_;
  int64_t batch_;
  DType act_ = config_.dtype(), acc_ = accumulate_type(act_);
  Json rows_ = Json::array();
};

}  // namespace

Json bench_ops(const BenchOptions& options) {
  const Config& config = options.config;
  const int64_t batch = config.train.micro_batch, time = config.model.context;
  const MemoryPlan plan = measure_memory(config, batch, time);
  Bench bench{options};
  Json out;
  out["kernels"] = cpu::describe_cpu_kernels();
  out["threads"] = thread_count();
  out["precision"] = name_of(config.dtype());
  out["tokens"] = batch * time;
  bench_matmuls(bench, plan.train.work, out);
  out["ops"] = OpRates(bench, batch).run();
  return out;
}

std::string format_bench_ops(const Json& result) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(3);
  out << result.find("kernels")->as_string() << ", " << result.find("threads")->as_int() << " threads, "
      << result.find("precision")->as_string() << ", " << result.find("tokens")->as_int() << " tokens\n\n"
      << "      M        N        K   op count       each            rate\n";
  for (const Json& row : result.find("matmul")->as_array()) {
    const auto number = [&](const char* key) { return row.find(key)->as_double(); };
    const auto integer = [&](const char* key) { return row.find(key)->as_int(); };
    out << std::setw(7) << integer("M") << " x " << std::setw(6) << integer("N") << " x " << std::setw(6)
        << integer("K") << (row.find("transpose_a")->as_bool() ? "  T" : "  N")
        << (row.find("transpose_b")->as_bool() ? "T" : "N") << std::setw(5) << integer("count") << " x " << std::setw(9)
        << number("ms") << " ms" << std::setw(9) << number("gflops") << " GFLOP/s\n";
  }
  out << "\nall matrix products of a micro-batch: " << result.find("gemm_bound_ms")->as_double() << " ms, "
      << result.find("gemm_gflops")->as_double() << " GFLOP/s\n\n";
  for (const Json& row : result.find("ops")->as_array()) {
    const Json* rate = row.find("gb_per_s");
    const char* unit = rate != nullptr ? " GB/s" : " GFLOP/s";
    if (rate == nullptr) rate = row.find("gflops");
    out << std::left << std::setw(20) << row.find("op")->as_string() << std::setw(18) << row.find("shape")->as_string()
        << std::right << std::setw(9) << row.find("ms")->as_double() << " ms" << std::setw(9) << rate->as_double()
        << unit << "\n";
  }
  return out.str();
}

}  // namespace sffn
