// What several subcommands share.
#pragma once
#include "comm/launch.h"
#include "config/config.h"
#include "core/log.h"
#include "tools/device.h"
#include "train/trainer.h"

#include <string>
#include <vector>

namespace sffn {

// A configuration for the backend that is named, or for its own where none is.
Config load_config_for(const std::string& backend, const std::string& path, std::vector<std::string> overrides);
// Loads a configuration on every rank, chooses its backend (tools/device.h), and checks that all ranks got the same.
Config load_config_together(Communicator& ranks, const std::string& path, const std::vector<std::string>& overrides,
                            const std::string& backend);
// "NAME=GLOB"; UsageError otherwise.
std::pair<std::string, std::string> parse_named_glob(const std::string& text);
// Throws UsageError where a file to be written has no folder; an empty path is none.
void require_folder_of(const std::string& option, const std::string& path);
// How a command speaks that has a --json, and how it does otherwise.
inline log::Output output_of(bool json, log::Output otherwise = log::Output::kLines) {
  return json ? log::Output::kJson : otherwise;
}
// Prints the object on stdout as one JSON value, with the warnings so far, where there are any, as "warnings".
void print_json(Json json);
// Ranks, threads, kernels, and the ranks of each of several nodes: what every computing command says first, on rank 0.
void log_world(World& world, const OpenDevice& device);
// Versions and how ranks share the work: what a training run says next. AgreedError where parallel.expert does not
// divide the ranks. Collective.
void log_layout(World& world, const ParallelConfig& parallel);
// 128 + signal, after a line that says so: for commands that a signal ends early.
int interrupted(int signal);

}  // namespace sffn
