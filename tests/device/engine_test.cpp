// The step of the CUDA backend beside the CPU's: the same model, data and random numbers, on both.
#include "train/engine.h"

#include "ffn/method_model.h"
#include "kernels/cuda/runtime.h"
#include "nn/host_values.h"
#include "train/memory_check.h"

#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

// form: of the block product, or none.
Config training_of(const FfnMethod& method, Precision precision, const std::string& form = "") {
  Config config = model_of(method, precision);
  if (!form.empty()) config.model.sparse_ffn.as_array()[0]["expert_compute"] = form;
  config.model.dropout = 0.1;
  config.train.micro_batch = 2;
  config.train.tokens_per_step = 4 * config.model.context;
  config.optimizer.clip = 0.5;
  return config;
}

std::vector<std::string> forms_of(const FfnMethod& method) {
  return has_key(method, "expert_compute") ? std::vector<std::string>{"grouped", "masked"}
                                           : std::vector<std::string>{""};
}

// One of two batches, so that ids of the step before are other ids; two learn more quickly than many.
Batch batch_of_step(const Config& config, int64_t step, int64_t first, int64_t count) {
  const Batch all = random_batch(4, config.model.context, config.model.vocab_size, 3 + static_cast<uint64_t>(step % 2));
  Batch part = make_batch(count, all.time);
  std::copy_n(all.inputs.begin() + first * all.time, count * all.time, part.inputs.begin());
  std::copy_n(all.targets.begin() + first * all.time, count * all.time, part.targets.begin());
  return part;
}

struct OneRank {
  std::unique_ptr<Communicator> alone = make_self_communicator();
  Engine engine;

  OneRank(const Config& config, DeviceRuntime& runtime)
      : engine(config, {alone.get(), alone.get(), alone.get()}, runtime, measure_for(runtime, config, 0, 1).arenas) {
    engine.initialise([&] { return std::vector<double>(static_cast<size_t>(config.model.vocab_size), 1); });
  }
  void start(int64_t step, double learning_rate = 1e-2) {
    const auto batch_of = [&](int64_t first, int64_t count) {
      return batch_of_step(engine.config(), step, first, count);
    };
    engine.start(step, batch_of, learning_rate, {}, [](std::string_view) {});
  }
};

// As many steps under way as the device allows.
std::vector<StepNumbers> run(const Config& config, DeviceRuntime& runtime, int64_t steps) {
  OneRank rank(config, runtime);
  std::vector<StepNumbers> finished;
  int64_t started = 0;
  while (static_cast<int64_t>(finished.size()) < steps) {
    while (started < steps && started - static_cast<int64_t>(finished.size()) < rank.engine.depth()) {
      rank.start(++started);
    }
    finished.push_back(rank.engine.finish());
  }
  return finished;
}

void check_as_on_the_cpu(const Config& config, int64_t steps) {
  const std::vector<StepNumbers> cpu = run(config, cpu_runtime(), steps), device = run(config, cuda_runtime(), steps);
  for (size_t step = 0; step < cpu.size(); ++step) {
    INFO("step " << step + 1);
    const double tolerance = step < 5 ? 1e-5 : 2e-3;
    CHECK(device[step].loss == Approx(cpu[step].loss).epsilon(tolerance));
    CHECK(device[step].gradient_norm == Approx(cpu[step].gradient_norm).epsilon(20 * tolerance));
  }
  for (size_t step = 0; step < 2; ++step) CHECK(device[step].block_load == cpu[step].block_load);
  CHECK(cpu.back().loss < cpu.front().loss);
}

}  // namespace

// Kills: any kernel that is right alone and wrong in its place: an op that reads what the stream has not written, an
// address of the host, memory that only the CPU's allocator clears; replayed work that keeps the ids, draws or learning
// rate of its recording.
TEST_CASE("20 steps on the device have the losses and norms of the CPU", "[device]") {
  check_as_on_the_cpu(training_of(*find_ffn_method("avg_k"), Precision::kFp32, "grouped"), 20);
}

// Kills: the same of a method of its own.
TEST_CASE("steps of every method on the device have the losses and norms of the CPU", "[device]") {
  for (const FfnMethod* method : ffn_methods()) {
    for (const std::string& form : forms_of(*method)) {
      INFO(method->name << " " << form);
      check_as_on_the_cpu(training_of(*method, Precision::kFp32, form), 5);
    }
  }
}

// Kills: a kernel that rounds at another place in bf16.
TEST_CASE("a step of every method in bf16 has the loss of the CPU", "[device]") {
  for (const FfnMethod* method : ffn_methods()) {
    for (const std::string& form : forms_of(*method)) {
      INFO(method->name << " " << form);
      const Config config = training_of(*method, Precision::kBf16, form);
      const std::vector<StepNumbers> cpu = run(config, cpu_runtime(), 2), device = run(config, cuda_runtime(), 2);
      CHECK(device[0].loss == Approx(cpu[0].loss).epsilon(5e-3));
      CHECK(device[1].loss == Approx(cpu[1].loss).epsilon(1e-2));
    }
  }
}

// Kills: an update that does not look at the flag, when it is replayed or when the next step was started before the
// host saw it.
TEST_CASE("a step whose loss is not finite changes no weight on the device", "[device]") {
  OneRank rank(training_of(*find_ffn_method("avg_k"), Precision::kFp32), cuda_runtime());
  for (int64_t step = 1; step <= 3; ++step) {
    rank.start(step);
    CHECK(rank.engine.finish().finite);
  }
  const Tensor weight = rank.engine.model().params().find("final_norm.weight")->value;
  std::vector<double> values = read_values(rank.engine.stream(), weight);
  values[3] = NAN;
  write_values(rank.engine.stream(), weight, values);
  const std::string before = rank.engine.state_hash();
  rank.start(4);
  rank.start(5);
  CHECK(!rank.engine.finish().finite);
  CHECK(!rank.engine.finish().finite);
  CHECK(rank.engine.state_hash() == before);
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
