// What a profiled stream tells of its kernels: all of them, once, with the work that each declares.
#include "kernels/cuda/profile.h"

#include "core/buffer.h"
#include "ffn/method_model.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"
#include "model/memory_plan.h"
#include "support/device_cut.h"
#include "train/engine.h"
#include "train/memory_check.h"
#include "train/random_batch.h"

#include <cuda_runtime.h>
#include <cxxabi.h>

#include <cmath>
#include <deque>
#include <functional>
#include <map>

using namespace sffn;
using namespace sffn::test;

namespace {

// Memory of the device, filled at random.
class DeviceTensors {
 public:
  Stream& stream() { return stream_; }
  Tensor make(DType dtype, const Shape& shape) {
    const Tensor t = buffers_.emplace_back(cuda_runtime(), shape, dtype).tensor(shape, dtype);
    if (dtype == DType::kI32 || dtype == DType::kF64) {
      ops::fill_zero(stream_, t);
    } else {
      ops::random_normal(stream_, t, RandomKey{1, buffers_.size()}, 0, 1.0, false);
    }
    return t;
  }

 private:
  Stream stream_{cuda_runtime()};
  std::deque<Buffer> buffers_;
};

struct Total {
  double bytes = 0, flops = 0;
  bool tensor_cores = false;
};

Total work_of(Stream& stream, const std::function<void()>& run) {
  stream.start_profile();
  run();
  Total total;
  for (const KernelTime& row : stream.take_profile()) {
    total.bytes += row.bytes * static_cast<double>(row.launches);
    total.flops += row.flops * static_cast<double>(row.launches);
    total.tensor_cores |= row.tensor_cores;
  }
  return total;
}

// A model in bf16 on the device, whose steps are one micro-batch.
struct OneModel {
  Config config;
  std::unique_ptr<Communicator> alone = make_self_communicator();
  Engine engine;

  explicit OneModel(const std::string& method) : OneModel(config_of(method)) {}
  double step(int64_t number) {
    const auto batch_of = [&](int64_t first, int64_t count) { return random_batch(config, number, first, count); };
    return engine.step(number, batch_of, 1e-3, [](std::string_view) {}).loss;
  }

 private:
  explicit OneModel(const Config& of_method)
      : config(of_method),
        engine(config, {alone.get(), alone.get(), alone.get()}, cuda_runtime(),
               measure_for(cuda_runtime(), config, 0, 1).arenas) {
    engine.initialise([&] { return random_token_counts(config); });
  }
  static Config config_of(const std::string& method) {
    Config config = model_of(*find_ffn_method(method), Precision::kBf16);
    config.train.micro_batch = 2;
    config.train.tokens_per_step = 2 * config.model.context;
    return config;
  }
};

// The profile of the second step of a model, and the products that such a step makes.
struct ProfiledStep {
  std::vector<KernelTime> rows;
  OpCounter expected;
};

ProfiledStep profile_step(const std::string& method, const std::function<void()>& before_step) {
  OneModel model(method);
  model.step(1);
  before_step();
  model.engine.stream().start_profile();
  model.step(2);
  return {model.engine.stream().take_profile(),
          measure_memory(model.config, 2, model.config.model.context, cuda_runtime()).train.work};
}

std::map<std::string, int64_t> launches_by_name(const std::vector<KernelTime>& rows) {
  std::map<std::string, int64_t> launches;
  for (const KernelTime& row : rows) launches[row.name] += row.launches;
  return launches;
}

}  // namespace

// Kills: an activation or a bias gradient that is an op of its own where the product could do it; parts left out where
// it cannot.
TEST_CASE("a step in bf16 has its products do what surrounds them, and the same loss where they cannot", "[device]") {
  const auto run = [](bool plain) {
    const ScopedProducts products(plain);
    OneModel model("dense");
    const double loss = model.step(1);
    return std::pair(cuda::describe_products(model.engine.stream()), loss);
  };
  const auto count = [](const std::vector<std::string>& lines, const std::string& part) {
    return std::count_if(lines.begin(), lines.end(),
                         [&](const auto& line) { return line.find(part) != std::string::npos; });
  };
  const auto [fused, loss] = run(false);
  CHECK(count(fused, " + bias, kept, gelu") > 0);
  CHECK(count(fused, ", gelu'") > 0);
  CHECK(count(fused, ", bias gradient") > 2);
  CHECK(count(fused, ": in parts") == 0);
#if SFFN_SIMT
  const auto [parts, same_loss] = run(true);
  CHECK(count(parts, ": in parts") == count(fused, "gelu") + count(fused, ", bias gradient"));
  CHECK(same_loss == Approx(loss).epsilon(1e-3));
#endif
}

// Kills: a product of another shape, of the forward pass alone, a launch counted twice; rows without work.
TEST_CASE("the profile of a step holds the matrix products that the step makes", "[device][profile]") {
  for (const char* method : {"dense", "avg_k", "pkm"}) {
    INFO(method);
    const ProfiledStep step = profile_step(method, [] {});
    const std::map<std::string, int64_t> launches = launches_by_name(step.rows);
    for (const auto& [shape, count] : step.expected.matmuls) {
      const std::string name = cuda::product_name(shape);
      INFO(name);
      REQUIRE(launches.contains(name));
      int64_t same_name = 0;  // with and without a bias, or added to what is there
      for (const auto& [other, times] : step.expected.matmuls)
        same_name += cuda::product_name(other) == name ? times : 0;
      CHECK(launches.at(name) == same_name);
    }
    for (const KernelTime& row : step.rows) {
      INFO(row.name);
      CHECK(row.bytes > 0);
      CHECK(std::isfinite(row.bytes + row.flops));
      CHECK(row.seconds >= 0);
      CHECK(row.name.find("sffn") == std::string::npos);
    }
  }
}

#if SFFN_SIMT
namespace {

std::map<std::string, int64_t> launches_by_executor() {
  std::map<std::string, int64_t> launches;
  for (const auto& [address, count] : simt::launches()) {
    const char* mangled = nullptr;
    REQUIRE(cudaFuncGetName(&mangled, address) == cudaSuccess);
    int status = 0;
    char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    REQUIRE(status == 0);
    launches[cuda::short_kernel_name(demangled)] += count;
    std::free(demangled);
  }
  return launches;
}

}  // namespace

// Kills: a launch that is not recorded, or twice; events of another kernel.
TEST_CASE("every launch of a step is in its profile, once", "[device][profile]") {
  for (const char* method : {"dense", "avg_k", "switch", "s_base"}) {
    INFO(method);
    std::map<std::string, int64_t> expected;
    const ProfiledStep step = profile_step(method, [&] { expected = launches_by_executor(); });
    for (auto& [name, count] : expected) count = -count;
    for (const auto& [name, count] : launches_by_executor()) expected[name] += count;
    std::erase_if(expected, [](const auto& kernel) { return kernel.second == 0; });
    std::map<std::string, int64_t> profiled = launches_by_name(step.rows);
    std::erase_if(profiled,
                  [](const auto& row) { return row.first.starts_with("matmul ") || row.first.starts_with("cudaMem"); });
    CHECK(profiled.size() > 10);
    CHECK(profiled == expected);
  }
}
#endif

// Kills: times of a profile that has ended, or of another stream.
TEST_CASE("a stream that is not profiled has no rows", "[device][profile]") {
  DeviceTensors device;
  const Tensor x = device.make(DType::kF32, {100});
  CHECK(device.stream().take_profile().empty());
  device.stream().start_profile();
  DeviceTensors other;
  (void)other.make(DType::kF32, {100});
  CHECK(device.stream().take_profile().empty());
  device.stream().start_profile();
  ops::add(device.stream(), x, x);
  CHECK(device.stream().take_profile().size() == 1);
  CHECK(device.stream().take_profile().empty());
  ops::add(device.stream(), x, x);
  CHECK(device.stream().take_profile().empty());
  Stream cpu(cpu_runtime());
  cpu.start_profile();
  CHECK(cpu.take_profile().empty());
}

// Bytes by the plan of a step's memory traffic: 8 bytes an element of a bf16 norm, forward and backward, 4 and 6 of an
// activation, 4 of logits, 30 a parameter.
// Kills: a tensor that moves and is not counted, one counted twice, a size in elements.
TEST_CASE("the kernels of a dense model declare the bytes they must move", "[device][profile]") {
  constexpr int64_t N = 48, D = 64, V = 96;
  DeviceTensors d;
  Stream& s = d.stream();
  const auto bf16 = [&](int64_t rows, int64_t columns) { return d.make(DType::kBF16, {rows, columns}); };
  const auto f32 = [&](int64_t count) { return d.make(DType::kF32, {count}); };
  const Tensor sum = bf16(N, D), pending = bf16(N, D), out = bf16(N, D), y = bf16(N, D), dh = bf16(N, D);
  const Tensor mean = f32(N), rstd = f32(N), w = f32(D), b = f32(D), dw = f32(D), db = f32(D);
  CHECK(work_of(s, [&] { ops::add_norm_forward(s, out, y, mean, rstd, sum, pending, w, b, 1e-5); }).bytes ==
        8 * N * D + 8 * N + 8 * D);
  CHECK(work_of(s, [&] {
          ops::add_norm_forward(s, Tensor(), y, Tensor(), rstd, sum, Tensor(), w, Tensor(), 1e-5);
        }).bytes == 4 * N * D + 4 * N + 4 * D);
  // Partial sums of dw and db: 8 bytes a column of each of N/2 ranges, written and read.
  CHECK(work_of(s, [&] { ops::add_norm_backward(s, dh, dw, db, y, sum, mean, rstd, w); }).bytes ==
        8 * N * D + 8 * N + 4 * D + 2 * (N / 2) * 8 * D + 16 * D);
  const Tensor z = bf16(N, D), h = bf16(N, D), dz = bf16(N, D);
  CHECK(work_of(s, [&] { ops::activation_forward(s, h, z, Tensor(), Activation::kGelu); }).bytes == 4 * N * D);
  CHECK(work_of(s, [&] { ops::activation_backward(s, dz, Tensor(), h, z, Tensor(), Activation::kGelu); }).bytes ==
        6 * N * D);
  const Tensor logits = bf16(N, V), losses = f32(N), targets = d.make(DType::kI32, {N});
  CHECK(work_of(s, [&] { ops::cross_entropy(s, losses, logits, targets, V, 1, true); }).bytes == 4 * N * V + 8 * N);
  CHECK(work_of(s, [&] { ops::cross_entropy(s, losses, logits, targets, V, 1, false); }).bytes == 2 * N * V + 8 * N);
  const Tensor master = f32(1000), m = f32(1000), v = f32(1000), grad = f32(1000),
               rounded = d.make(DType::kBF16, {1000});
  const Tensor numbers = d.make(DType::kF64, {update::kCount});
  CHECK(work_of(s, [&] { ops::adamw(s, master, rounded, m, v, grad, numbers, AdamWOptions{}); }).bytes == 30 * 1000);
  CHECK(work_of(s, [&] { ops::adamw(s, master, Tensor(), m, v, grad, numbers, AdamWOptions{}); }).bytes == 28 * 1000);
  CHECK(work_of(s, [&] { ops::fill_zero(s, master); }).bytes == 4 * 1000);
  CHECK(work_of(s, [&] { ops::copy(s, m, master); }).bytes == 8 * 1000);
}

// Kills: a factor of two, all positions instead of those before, the peak of another unit.
TEST_CASE("products declare two FLOPs a multiply-add, and attention only what a query sees", "[device][profile]") {
  DeviceTensors d;
  Stream& s = d.stream();
  constexpr int64_t M = 24, N = 40, K = 16;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor a = d.make(dtype, {M, K}), b = d.make(dtype, {N, K}), c = d.make(dtype, {M, N});
    const Total total =
        work_of(s, [&] { ops::matmul(s, c, a, Transpose::kNo, b, Transpose::kYes, Tensor(), Accumulate::kYes); });
    CHECK(total.flops == 2 * M * N * K);
    CHECK(total.bytes == static_cast<double>(size_of(dtype)) * (M * K + N * K + 2 * M * N));
    CHECK(total.tensor_cores == (dtype == DType::kBF16));
  }
  const AttentionShape shape{2, 32, 4, 2, 8, 0.25};  // B, T, H, H_kv, d_h
  const Tensor qkv = d.make(DType::kBF16, {64, shape.qkv_width()}), out = d.make(DType::kBF16, {64, shape.out_width()});
  const Tensor lse = d.make(DType::kF32, {2, 4, 32});
  const Total forward = work_of(s, [&] { ops::attention_forward(s, out, lse, qkv, Tensor(), shape, Dropout{}); });
  constexpr double kSeen = 32 * 33 / 2, kProduct = 2 * 4 * 2 * kSeen * 8;
  CHECK(forward.flops == 2 * kProduct);
  CHECK(forward.bytes == static_cast<double>(qkv.bytes() + out.bytes() + lse.bytes()));
  CHECK(forward.tensor_cores);
  // dP, dV, dQ, dK and the scores again: five products at least, seven where two kernels make the scores
  const Tensor dout = d.make(DType::kBF16, out.shape()), dqkv = d.make(DType::kBF16, qkv.shape());
  const Total backward =
      work_of(s, [&] { ops::attention_backward(s, dqkv, dout, out, lse, qkv, Tensor(), shape, Dropout{}); });
  CHECK(backward.flops >= 5 * kProduct);
  CHECK(backward.flops <= 7.5 * kProduct);
}

// 4·N·k·d forward, 2·W of tables, X, Y, and twice the pre-activations H, with 4 bytes a choice in each product.
// Kills: expanded rows of tokens counted as moving, a table counted by choices, a gate or a z that is left out.
TEST_CASE("the block products declare the FLOPs of a dense layer of as many cells", "[device][profile]") {
  constexpr int64_t N = 40, D = 32, B = 8, G = 8, per_token = 2, P = N * per_token;
  DeviceTensors d;
  Stream& s = d.stream();
  const Tensor x = d.make(DType::kBF16, {N, D}), y = d.make(DType::kBF16, {N, D}), z = d.make(DType::kBF16, {P, G});
  const Tensor keys = d.make(DType::kBF16, {B * G, D}), values = d.make(DType::kBF16, {B * G, D});
  const Tensor blocks = d.make(DType::kI32, {N, per_token}), counts = d.make(DType::kI32, {1, B});
  const BlockRouting routing{.order = d.make(DType::kI32, {P}),
                             .inverse = d.make(DType::kI32, {P}),
                             .offsets = d.make(DType::kI32, {B + 1}),
                             .blocks = B,
                             .per_token = per_token,
                             .chunk = N};
  ops::count_blocks(s, counts, blocks);
  ops::exclusive_scan(s, routing.offsets, counts);
  ops::sort_by_block(s, routing, blocks);
  const Total total = work_of(s, [&] {
    ops::block_project(s, z, x, keys, Tensor(), routing);
    ops::block_combine(s, y, z, Tensor(), values, Tensor(), routing, Accumulate::kNo);
  });
  CHECK(total.flops == 4.0 * N * per_token * G * D);
  CHECK(total.tensor_cores);
  const double least = static_cast<double>(keys.bytes() + values.bytes() + x.bytes() + y.bytes() + 2 * z.bytes());
  CHECK(total.bytes >= least);
  CHECK(total.bytes <= least + 2 * 4 * P + 16);
  // Beside a product, its activation writes h once more where z is kept, and reads a gate.
  const Tensor h = d.make(DType::kBF16, {P, G}), gate = d.make(DType::kBF16, {P, G});
  const auto bytes_with = [&](const Tensor& kept, const Tensor& gates) {
    return work_of(
               s,
               [&] { ops::block_project_activation(s, h, kept, x, keys, Tensor(), gates, routing, Activation::kGelu); })
        .bytes;
  };
  const double alone = work_of(s, [&] { ops::block_project(s, z, x, keys, Tensor(), routing); }).bytes;
  CHECK(bytes_with(h, Tensor()) == alone);
  CHECK(bytes_with(z, Tensor()) == alone + 2 * P * G);
  CHECK(bytes_with(z, gate) == alone + 4 * P * G);
}

// Kills: a name that ends at the brackets of a template, or keeps the folder of its file.
TEST_CASE("a kernel is named without its scopes and arguments", "[device][profile]") {
  CHECK(cuda::short_kernel_name("void sffn::cuda::(anonymous namespace)::adamw_kernel<true>(float*, long)") ==
        "adamw_kernel<true>");
  CHECK(cuda::short_kernel_name("sffn::cuda::add_events_kernel(double*)") == "add_events_kernel");
  CHECK(cuda::short_kernel_name("void sffn::cuda::_GLOBAL__N__0a1b_7_sum_cu::chunk_sum_kernel<double, "
                                "sffn::cuda::_GLOBAL__N__0a1b_7_sum_cu::Same>(double*, double const*)") ==
        "chunk_sum_kernel<double, Same>");
  CHECK(cuda::short_kernel_name("void k<(bool)1, (int)32>(int)") == "k<(bool)1, (int)32>");
}
