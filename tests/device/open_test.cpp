// What a user is told whose machine has no GPU, or not the right one, or not enough of its memory. With the executor's
// GPUs, which pretend (simt/devices.h).
#include "ffn/method_model.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/runtime.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "tools/tool_run.h"
#include "train/memory_check.h"

#include "simt/devices.h"

#include <cstdlib>

using namespace sffn;
using namespace sffn::test;

namespace {

class Pretend {
 public:
  explicit Pretend(const std::string& words) : before_(simt::devices()) {
    simt::devices() = simt::devices_named(words);
  }
  ~Pretend() { simt::devices() = before_; }

 private:
  simt::Devices before_;
};

Caught opened(const std::string& words) {
  const Pretend pretend(words);
  return error_of([] {
    require_gpu(0);
    Stream stream(cuda_runtime());
    require_kernels(stream);
  });
}

void check_usage(const Caught& caught, const std::vector<std::string>& parts) {
  INFO(caught.what);
  CHECK(caught.code == ExitCode::kUsage);
  CHECK(caught.what.find('\n') == std::string::npos);
  CHECK(caught.says("backend: cuda: "));
  CHECK(caught.says("--backend cpu"));
  for (const std::string& part : parts) {
    INFO(part);
    CHECK(caught.says(part));
  }
}

// Of the program, started with such GPUs.
Ran run_with(const std::string& words, const Words& arguments, int ranks = 0) {
  setenv("SFFN_SIMT_DEVICES", words.c_str(), 1);
  Ran ran = run_sffn(arguments, ranks);
  unsetenv("SFFN_SIMT_DEVICES");
  return ran;
}

const Words kStep = {"bench",
                     "step",
                     SFFN_SOURCE_DIR "/configs/tiny/dense.json",
                     "--steps",
                     "1",
                     "--json",
                     "--set",
                     "train.micro_batch=1"};

}  // namespace

// Kills: a code of CUDA in place of words, an error without the alternative, one that names neither versions nor card.
TEST_CASE("a GPU that cannot be used is an error that says why and names the CPU backend", "[open]") {
  cuda_runtime();  // opens while all is well: what follows asks again
  check_usage(opened("none"), {"there is no GPU", "CUDA_VISIBLE_DEVICES"});
  check_usage(opened("no_driver"), {"no NVIDIA driver"});
  check_usage(opened("old_driver"), {"driver supports CUDA 12.4", "needs 13.0"});
  check_usage(opened("silent"), {"do not answer"});
  check_usage(opened("busy"), {"GPU 0, SIMT executor", "busy or unavailable"});
  check_usage(opened("volta"), {"Tesla V100-SXM2-16GB of compute capability 7.0", "8.0 or more"});
  check_usage(opened("foreign"),
              {"no kernels for GPU 0, NVIDIA B200 of compute capability 10.0", "-DCMAKE_CUDA_ARCHITECTURES=100; "});
  check_usage(opened("ada"), {"NVIDIA L40S of compute capability 8.9, has 99 KiB of shared memory", "need 116: "});
  CHECK(opened("ampere").what.empty());
  check_usage(opened("uncompiled"), {"GPU 0, NVIDIA H200", "-DCMAKE_CUDA_ARCHITECTURES=90a; "});
  check_usage(error_of([] { require_gpu(7); }), {"no GPU 7", "0 to 3"});
  CHECK(opened("2").what.empty());
}

// Kills: a driver that is too old taken for no GPU, so that "auto" trains on the CPU and says nothing.
TEST_CASE("no GPU and no driver are no GPUs, a driver that is too old is an error", "[open]") {
  const auto count = [](const std::string& words) {
    const Pretend pretend(words);
    return visible_gpus().size();
  };
  CHECK(count("none") == 0);
  CHECK(count("no_driver") == 0);
  CHECK(count("2") == 2);
  CHECK_THROWS_AS(count("old_driver"), UsageError);
  CHECK(visible_gpus()[0] != visible_gpus()[1]);
}

// Kills: an error that only some ranks see, so that the others wait; one line a rank; another exit code.
TEST_CASE("the program ends with one line and exit code 2 where there are not enough GPUs, on any number of ranks",
          "[open]") {
  const Words cuda = kStep + Words{"--backend", "cuda"};
  for (const int ranks : {0, 1, 3}) {
    const Ran none = run_with("none", cuda, ranks);
    INFO(ranks << " ranks: " << none.err);
    CHECK(none.code == 2);
    CHECK(none.err.find("error: backend: cuda: there is no GPU") != std::string::npos);
    CHECK(none.err.find("error: ") == none.err.rfind("error: "));
    CHECK(none.seconds < 20);
  }
  const Ran few = run_with("2", cuda, 3);
  INFO(few.err);
  CHECK(few.code == 2);
  CHECK(few.err.find("error: backend: cuda: 3 ranks of a node for 2 GPUs") != std::string::npos);
  CHECK(few.err.find("error: ") == few.err.rfind("error: "));
}

// Kills: "auto" that never takes a GPU, that needs one, or that goes to the CPU in silence beside a GPU it cannot use.
TEST_CASE("auto takes the GPU where there is one and the CPU where there is none", "[open]") {
  Words step = kStep;
  step.erase(std::find(step.begin(), step.end(), "--json"));
  const auto first_line = [&](const std::string& words, const Words& more) {
    const Ran ran = run_with(words, step + more);
    INFO(ran.err);
    CHECK(ran.code == 0);
    return ran.out.substr(0, ran.out.find('\n'));
  };
  const std::string gpu = first_line("1", {});
  INFO(gpu);
  CHECK(gpu.find("1 rank on 1 node") == 0);
  CHECK(gpu.find("; backend cuda: SIMT executor, 8.0 GiB; driver 13.0, runtime 13.0, cuBLAS 13.1.0, NCCL 2.28.9") !=
        std::string::npos);
  CHECK(first_line("none", {}).find("; backend cpu: oneDNN") != std::string::npos);
  CHECK(first_line("1", {"--backend", "cpu"}).find("; backend cpu: oneDNN") != std::string::npos);
  CHECK(run_with("old_driver", step).code == 2);
}

namespace {

size_t bytes_needed(const Measurement& measured) {
  size_t total = 0;
  for (const auto& [name, bytes] : measured.memory) total += bytes;
  return total;
}

Config large(int64_t micro_batch, int64_t width) {
  Config config = model_of(*find_ffn_method("dense"), Precision::kFp32);
  config.model.d_model = width;
  config.model.head_dim = width / config.model.heads;
  config.model.ffn.d_ff = 4 * width;
  config.model.context = 1024;
  config.train.micro_batch = micro_batch;
  config.train.tokens_per_step = 4 * micro_batch * config.model.context;
  config.train.deterministic = false;  // as on a GPU in any case
  return config;
}

Caught refused(const Config& config, int ranks = 1) {
  const Caught caught = error_of([&] { measure_for(cuda_runtime(), config, 0, ranks); });
  if (caught.code == ExitCode::kDone) return caught;
  INFO(caught.what);
  CHECK(caught.code == ExitCode::kUsage);
  CHECK(caught.says(cat(bytes_needed(Engine::measure(config, 0, ranks)), " bytes (")));
  CHECK(caught.says(cat(free_gpu_bytes(0), " bytes (")));
  CHECK(caught.says("--backend cpu"));
  return caught;
}

}  // namespace

// Kills: an allocation that fails half-way; advice that is the same whatever fills the memory; advice not measured.
TEST_CASE("too little memory of a GPU is told before anything is allocated, with what would save most", "[open]") {
  CHECK(refused(large(1, 64)).what.empty());
  const Caught activations = refused(large(4096, 64));
  INFO(activations.what);
  CHECK(activations.says("of them activations; train.micro_batch 2048 saves most: "));
  Config halved = large(4096, 64);
  halved.train.micro_batch = 2048;
  CHECK(activations.says(cat(bytes_needed(Engine::measure(halved, 0, 1)), " bytes (")));

  Config wide = large(1, 8192);
  wide.train.recompute = Recompute::kBlock;
  const Caught parameters = refused(wide);
  INFO(parameters.what);
  CHECK(parameters.says("; 2 ranks saves most: "));
  wide.parallel.zero = 0;
  wide.train.precision = Precision::kBf16;
  CHECK(refused(wide, 2).says("parallel.zero 1 saves most: "));
}

// Kills: a command that gives up half-way, with the words of an op or an allocation, where another one says what helps;
// a limit of the GPU that a run on the CPU has to keep.
TEST_CASE("every command that computes on a GPU refuses what does not fit it, and the CPU takes it", "[open]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string config = write_model(folder), ids = folder / "ids";
  write_ids(ids, arbitrary_ids(17, 257));
  const Words wide = {config, "--set", "model.heads=1", "--set", "model.d_model=264"};
  const Words large = {config,           "--set", "model.d_model=8192",  "--set",
                       "model.heads=64", "--set", "model.ffn.d_ff=65536"};
  const Words probe = {"--tokens", ids, "--batch", "1", "--out", folder / "probe"};
  const Words on_gpu = {"--backend", "cuda"}, on_cpu = {"--backend", "cpu"};
  const auto refuses = [&](const Words& command, const std::string& part) {
    const Ran ran = run_with("1", command);
    INFO(command[0] << " " << command[1] << ": " << ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line(part));
    CHECK((ran.err.find("--backend cpu") != std::string::npos || ran.err.find("backend \"cpu\"") != std::string::npos));
  };
  const std::string heads = "model.head_dim: is 264 ", memory = "memory: cuda:0 ";
  refuses(Words{"bench", "step"} + wide + on_gpu + Words{"--json"}, heads);
  refuses(Words{"bench", "ops"} + wide + on_gpu + Words{"--json"}, heads);
  refuses(Words{"compare"} + wide, heads);
  refuses(Words{"probe"} + wide + on_gpu + probe, heads);
  refuses(Words{"plan"} + wide + Words{"--device", "h100"}, heads);
  refuses(Words{"bench", "step"} + large + on_gpu + Words{"--json"}, memory);
  refuses(Words{"compare"} + large, memory);
  refuses(Words{"probe"} + large + on_gpu + probe, memory);

  const Words for_gpu = wide + Words{"--set", "backend=cuda"};
  for (const Words& command :
       {Words{"bench", "step"} + for_gpu + on_cpu + Words{"--steps", "1"}, Words{"probe"} + for_gpu + on_cpu + probe}) {
    const Ran ran = run_with("1", command);
    INFO(ran.err);
    CHECK(ran.code == 0);
  }
}
