#include "tools/options.h"

#include "comm/agree.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/signals.h"
#include "kernels/cpu/capabilities.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

#include <cstdio>

namespace sffn {

std::string choose_backend(const std::string& wanted) {
  if (wanted == "cuda" && !kHasCuda) {
    throw UsageError("backend", "cuda is not in this build; use cpu, or configure with the preset cuda");
  }
  if (wanted != "auto" && wanted != "cpu" && wanted != "cuda") {
    throw UsageError("backend", cat("\"", wanted, "\" is not known; known: auto, cpu, cuda"));
  }
  return wanted == "auto" ? "cpu" : wanted;
}

DeviceRuntime& open_device(const std::string& backend, Communicator& ranks, [[maybe_unused]] int rank_on_host) {
  DeviceRuntime* runtime = &cpu_runtime();
  together(ranks, [&] {
    if (choose_backend(backend) == "cpu") return;
    if (ranks.size() > 1) {
      throw UsageError("backend", cat("cuda runs one rank in this version, not ", ranks.size(),
                                      "; start one, or use \"backend\": \"cpu\""));
    }
#if SFFN_HAS_CUDA
    runtime = &cuda_runtime(rank_on_host);
#endif
  });
  return *runtime;
}

Config load_config_together(Communicator& ranks, const std::string& path, const std::vector<std::string>& overrides,
                            const std::string& backend) {
  Config config;
  together(ranks, [&] {
    config = load_config(path, overrides);
    if (!backend.empty()) config.backend = backend;
    config.backend = choose_backend(config.backend);
  });
  require_same(ranks, hash128(to_json(config).dump()), "the configuration");
  return config;
}

std::pair<std::string, std::string> parse_named_glob(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    throw UsageError("--data " + text, "is not NAME=GLOB, as in --data \"wiki=data/wiki/val-*.bin\"");
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

void print_json(const Json& json) { std::printf("%s\n", json.dump(2).c_str()); }

void log_world(World& world) {
  log::info(world.str(), "; backend cpu: ", cpu::describe_cpu_kernels());
  if (!world.warning().empty() && world.ranks().rank() == 0) log::warn(world.warning());
}

int interrupted(int signal) {
  log::warn("stopped by signal ", signals::name(signal), " before the end");
  return 128 + signal;
}

}  // namespace sffn
