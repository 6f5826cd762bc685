// Evaluation and generation with the program, on the device beside the CPU.
#include "tools/tool_run.h"

using namespace sffn;
using namespace sffn::test;

namespace {

// A trained sparse model and held-out text.
struct Trained {
  TempFolder folder{TempFolder::kMemory};
  std::string data = prepare_words(folder, "a", 24), run = folder / "run";

  Trained() {
    const std::string sparse =
        R"(model.sparse_ffn=[{"layers": "all", "type": "sigma_moe", "block_size": 16, "expansion": 4, "active_blocks": 2}])";
    sffn_done(train_command(write_model(folder), data, run) +
              Words{"--backend", "cpu", "--steps", "8", "--set", sparse, "--set", "model.ffn.bias=false"});
  }
  Ran on(const std::string& backend, const Words& command) const {
    return sffn_done(command + Words{"--checkpoint", run, "--backend", backend});
  }
};

}  // namespace

// Kills: an evaluation or a cache of keys and values that only the CPU gets right, a backend that is asked for in vain.
TEST_CASE("evaluation and generation on the device give the numbers and the text of the CPU", "[device]") {
  const Trained trained;
  const Words eval = {"eval", "--json", "--data", "a=" + trained.data + "/val-*.bin", "--stride", "5", "--usage"};
  const auto report = [&](const std::string& backend) {
    const Ran ran = trained.on(backend, eval + Words{trained.folder / backend});
    CHECK(ran.json().find("backend")->as_string() == backend);
    return *ran.json().find("sets")->find("a");
  };
  const Json cpu = report("cpu"), device = report("cuda");
  CHECK(number(device, "nll") == Approx(number(cpu, "nll")).epsilon(1e-6));
  CHECK(*device.find("tokens") == *cpu.find("tokens"));
  CHECK(read_text(trained.folder / "cuda") == read_text(trained.folder / "cpu"));

  const Words generate = {"generate", "--prompt", "sparse memory ", "--tokens", "40", "--top-k", "1"};
  const Ran of_cpu = trained.on("cpu", generate), of_device = trained.on("cuda", generate);
  CHECK(of_device.out == of_cpu.out);
  CHECK(of_device.out.size() > 40);
  CHECK(of_device.err.find("; backend cuda: ") != std::string::npos);
}
