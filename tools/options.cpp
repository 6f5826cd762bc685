#include "tools/options.h"

#include "comm/agree.h"
#include "comm/groups.h"
#include "core/hash.h"
#include "core/signals.h"

#include <cstdio>
#include <filesystem>

namespace sffn {
namespace {

void warn_on_rank_0(World& world, const std::string& warning) {
  if (!warning.empty() && world.ranks().rank() == 0) log::warn(warning);
}

}  // namespace

Config load_config_for(const std::string& backend, const std::string& path, std::vector<std::string> overrides) {
  if (!backend.empty()) {
    require_backend_name(backend);
    overrides.push_back("backend=" + backend);
  }
  return load_config(path, overrides);
}

Config load_config_together(Communicator& ranks, const std::string& path, const std::vector<std::string>& overrides,
                            const std::string& backend) {
  Config config;
  together(ranks, [&] { config = load_config_for(backend, path, overrides); });
  config.backend = choose_backend(config.backend, ranks);
  config.model.on_gpu = config.backend == "cuda";
  together(ranks, [&] { check_config(config, path); });  // of the backend that "auto" is
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

void require_folder_of(const std::string& option, const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  if (!path.empty() && !folder.empty() && !std::filesystem::is_directory(folder)) {
    throw UsageError(option + " " + path, cat("there is no folder ", folder));
  }
}

void print_json(Json json) {
  const std::vector<std::string> warnings = log::take_warnings();
  if (!warnings.empty()) json["warnings"] = Json::Array(warnings.begin(), warnings.end());
  std::printf("%s\n", json.dump(2).c_str());
}

void log_world(World& world, const OpenDevice& device) {
  log::info(world.str(), "; ", device.description);
  if (world.placement().nodes() > 1) log::info(world.placement().str());
  warn_on_rank_0(world, world.warning());
}

void log_layout(World& world, const ParallelConfig& parallel) {
  together(world.ranks(), [&] { check_expert_ranks(world.ranks().size(), parallel.expert); });
  log::info(SFFN_VERSION, ", ", world.mpi(), "; ", describe_layout(world.placement(), parallel.expert, parallel.zero));
  warn_on_rank_0(world, placement_warning(world.placement(), parallel.expert));
}

int interrupted(int signal) {
  log::error("stopped by signal ", signals::name(signal), " before the end");
  return 128 + signal;
}

}  // namespace sffn
