// What several subcommands share.
#pragma once
#include "comm/launch.h"
#include "config/config.h"
#include "train/trainer.h"

#include <string>
#include <vector>

namespace sffn {

// Loads a configuration on every rank, checks that all ranks got the same, and that this binary has the backend:
// "auto" is "cpu".
Config load_config_together(Communicator& ranks, const std::string& path, const std::vector<std::string>& overrides,
                            const std::string& backend);
// "cpu" or "cuda". UsageError for what this build has not.
std::string choose_backend(const std::string& wanted);
// The device of this rank: GPU number `rank_on_host`, or the CPU. Collective; UsageError where there is none for a
// rank.
DeviceRuntime& open_device(const std::string& backend, Communicator& ranks, int rank_on_host);
// "NAME=GLOB"; UsageError otherwise.
std::pair<std::string, std::string> parse_named_glob(const std::string& text);
// Prints the object on stdout as one JSON value.
void print_json(const Json& json);
// Ranks, threads, kernels: what every computing command says first, on rank 0.
void log_world(World& world);
// 128 + signal, after a line that says so: for commands that a signal ends early.
int interrupted(int signal);

}  // namespace sffn
