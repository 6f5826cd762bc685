// The communicator of ranks with a GPU each. Where a machine has too few GPUs, fewer ranks are tried.
#include "comm/nccl.h"

#include "comm/conformance.h"
#include "ffn/method_model.h"
#include "train/engine.h"
#include "train/memory_check.h"

#include "device/gpu_ranks.h"

#include <algorithm>
#include <utility>

using namespace sffn;
using namespace sffn::test;

// Kills: parts by rank in place of counts, equal counts taken for unequal ones or the other way round, a rank's own
// part forgotten, a root other than the caller's, device memory that the host reads.
TEST_CASE("ranks with a GPU each do what the copies say", "[nccl]") {
  for (const int ranks : {1, 2, 4}) {
    if (!has_gpus(ranks)) continue;
    INFO(ranks << " ranks");
    CHECK_NOTHROW(run_gpu_ranks(
        ranks, [](Communicator& comm, DeviceRuntime& gpu, Communicator&) { check_conformance(comm, gpu); }));
  }
}

// Kills: tensors of the host given to NCCL; checkpoints move such.
TEST_CASE("ranks with a GPU each move tensors of the host as well", "[nccl]") {
  for (const int ranks : {1, 2}) {
    if (!has_gpus(ranks)) continue;
    CHECK_NOTHROW(run_gpu_ranks(
        ranks, [](Communicator& comm, DeviceRuntime&, Communicator&) { check_conformance(comm, cpu_runtime()); }));
  }
}

namespace {

// Two micro-batches a step: one rank adds the second to the first, and two ranks add theirs, in the same order.
Config training_of(const FfnMethod& method, int64_t zero) {
  Config config = model_of(method, Precision::kFp32);
  config.model.dropout = 0.1;
  config.train.micro_batch = 2;
  config.train.tokens_per_step = 4 * config.model.context;
  config.optimizer.clip = 0.5;
  config.parallel.zero = zero;
  return config;
}

struct Outcome {
  std::vector<double> losses, norms;
  std::string hash;
};

Outcome train_on(const Config& config, Communicator& data, DeviceRuntime& gpu) {
  const auto alone = make_self_communicator();
  Engine engine(config, {&data, &data, alone.get()}, gpu, measure_for(gpu, config, data.rank(), data.size()).arenas);
  engine.initialise([&] { return std::vector<double>(static_cast<size_t>(config.model.vocab_size), 1); });
  const Batch all = random_batch(4, config.model.context, config.model.vocab_size, 3);
  const auto batch_of = [&](int64_t first, int64_t count) {
    Batch part = make_batch(count, all.time);
    std::copy_n(all.inputs.begin() + first * all.time, count * all.time, part.inputs.begin());
    std::copy_n(all.targets.begin() + first * all.time, count * all.time, part.targets.begin());
    return part;
  };
  Outcome outcome;
  for (int64_t step = 1; step <= 4; ++step) {  // the exchange is recorded in the second and replayed from then on
    const StepNumbers numbers = engine.step(step, batch_of, 1e-2, [](std::string_view) {});
    outcome.losses.push_back(numbers.loss);
    outcome.norms.push_back(numbers.gradient_norm);
  }
  outcome.hash = engine.state_hash();
  return outcome;
}

std::vector<Outcome> train_on_ranks(int ranks, const Config& config) {
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_gpu_ranks(ranks, [&](Communicator& comm, DeviceRuntime& gpu, Communicator&) {
    outcomes[static_cast<size_t>(comm.rank())] = train_on(config, comm, gpu);
  });
  return outcomes;
}

}  // namespace

// Kills: gradients that are not exchanged, or before they are there; a rank that trains on another's sequences; weights
// of another rank's range that stay old.
TEST_CASE("a model trained on two GPUs is the one trained on one", "[nccl]") {
  if (!has_gpus(2)) return;
  const std::vector<std::pair<const char*, int64_t>> cases = {{"dense", 0}, {"dense", 1}, {"switch", 1}};
  for (const auto& [name, zero] : cases) {
    INFO(name << ", zero " << zero);
    const Config config = training_of(*find_ffn_method(name), zero);
    const Outcome one = train_on_ranks(1, config)[0];
    const std::vector<Outcome> two = train_on_ranks(2, config);
    CHECK(one.losses.back() < one.losses.front());
    CHECK(two[0].hash == two[1].hash);
    for (size_t step = 0; step < one.losses.size(); ++step) {
      INFO("step " << step + 1);
      CHECK(two[0].losses[step] == two[1].losses[step]);
      CHECK(two[0].losses[step] == Approx(one.losses[step]).epsilon(1e-5));
      CHECK(two[0].norms[step] == Approx(one.norms[step]).epsilon(1e-4));
    }
  }
}
