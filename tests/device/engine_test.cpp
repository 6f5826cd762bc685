// The step of the CUDA backend beside the CPU's: the same model, data and random numbers, on both.
#include "train/engine.h"

#include "ffn/method_model.h"
#include "kernels/cuda/runtime.h"

using namespace sffn;
using namespace sffn::test;

namespace {

Config training_of(const FfnMethod& method, Precision precision) {
  Config config = model_of(method, precision);
  config.model.dropout = 0.1;
  config.train.micro_batch = 2;
  config.train.tokens_per_step = 4 * config.model.context;
  config.optimizer.clip = 0.5;
  return config;
}

std::vector<double> losses_of(const Config& config, DeviceRuntime& runtime, int64_t steps) {
  const auto alone = make_self_communicator();
  Engine engine(config, {alone.get(), alone.get(), alone.get()}, runtime, Engine::measure(config, 0, 1).arenas);
  engine.initialise([&] { return std::vector<double>(static_cast<size_t>(config.model.vocab_size), 1); });
  std::vector<double> losses;
  for (int64_t step = 1; step <= steps; ++step) {
    const auto batch_of = [&](int64_t first, int64_t count) {
      const Batch all = random_batch(4, config.model.context, config.model.vocab_size, 3);
      Batch part = make_batch(count, all.time);
      std::copy_n(all.inputs.begin() + first * all.time, count * all.time, part.inputs.begin());
      std::copy_n(all.targets.begin() + first * all.time, count * all.time, part.targets.begin());
      return part;
    };
    losses.push_back(engine.step(step, batch_of, 1e-2, [](std::string_view) {}).loss);
  }
  return losses;
}

}  // namespace

// Kills: any kernel that is right alone and wrong in its place: an op that reads what the stream has not written, an
// address of the host, memory that only the CPU's allocator clears.
TEST_CASE("20 steps of every method on the device have the losses of the CPU", "[device]") {
  for (const FfnMethod* method : ffn_methods()) {
    INFO(method->name);
    const Config config = training_of(*method, Precision::kFp32);
    const std::vector<double> cpu = losses_of(config, cpu_runtime(), 20),
                              device = losses_of(config, cuda_runtime(), 20);
    CHECK(cpu.back() < cpu.front());
    for (size_t step = 0; step < cpu.size(); ++step) {
      INFO("step " << step + 1);
      CHECK(device[step] == Approx(cpu[step]).epsilon(step < 5 ? 1e-5 : 2e-3));
    }
  }
}

// Kills: a kernel that rounds at another place in bf16.
TEST_CASE("a step of every method in bf16 has the loss of the CPU", "[device]") {
  for (const FfnMethod* method : ffn_methods()) {
    INFO(method->name);
    const Config config = training_of(*method, Precision::kBf16);
    const std::vector<double> cpu = losses_of(config, cpu_runtime(), 2), device = losses_of(config, cuda_runtime(), 2);
    CHECK(device[0] == Approx(cpu[0]).epsilon(5e-3));
    CHECK(device[1] == Approx(cpu[1]).epsilon(1e-2));
  }
}

// Kills: heads that no kernel has room for, found out in the middle of a step; a limit of one backend held against the
// other.
TEST_CASE("heads wider than 256 are refused on cuda before anything runs", "[device]") {
  Config config = tiny_model(Precision::kBf16);
  const auto refused = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  const auto allocates_on = [&](DeviceRuntime& runtime) {
    return refused([&] { Transformer(config).allocate(runtime); });
  };
  config.model.head_dim = 256;
  CHECK(allocates_on(cuda_runtime()).empty());
  config.model.head_dim = 258;
  CHECK(allocates_on(cpu_runtime()).empty());
  CHECK(allocates_on(cuda_runtime()) ==
        "model.head_dim: is 258 on the backend cuda; at most 256, or the backend cpu, is expected");
  check_config(config, "c.json");
  config.backend = "cuda";
  CHECK(refused([&] { check_config(config, "c.json"); }) ==
        "c.json: model.head_dim: is 258 with backend \"cuda\"; at most 256, or backend \"cpu\", is expected");
}
