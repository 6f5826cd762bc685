// sffn verify: every fault of a checkpoint or of token shards.
#include "data/corpus.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "train/checkpoint/checkpoint.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::vector<std::string> checkpoints, data;
  bool json = false;
};

int verify(const Arguments& arguments) {
  if (arguments.checkpoints.empty() && arguments.data.empty()) {
    throw UsageError("verify", "nothing to look at; give --checkpoint DIR or --data GLOB");
  }
  std::vector<std::string> faults;
  const auto add = [&](const std::vector<std::string>& found) {
    faults.insert(faults.end(), found.begin(), found.end());
  };
  for (const std::string& folder : arguments.checkpoints) add(verify_checkpoint(folder));
  for (const std::string& glob : arguments.data) add(find_faults(glob));

  if (arguments.json) {
    Json report;
    report["good"] = faults.empty();
    report["faults"] = Json::Array(faults.begin(), faults.end());
    print_json(report);
  } else if (faults.empty()) {
    std::printf("good\n");
  } else {
    for (const std::string& fault : faults) std::printf("fault: %s\n", fault.c_str());
  }
  return static_cast<int>(faults.empty() ? ExitCode::kDone : ExitCode::kDamaged);
}

}  // namespace

void add_verify_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("verify", "check a checkpoint or token shards against their checksums");
  command->add_option("--checkpoint", arguments->checkpoints, "step folder; may repeat");
  command->add_option("--data", arguments->data, "glob of token shards; may repeat");
  command->add_flag("--json", arguments->json, "for machines");
  command->footer(
      "Exit code 0: good. 3: every fault found is printed.\n"
      "Example:\n  sffn verify --checkpoint runs/a/checkpoints/step-00000100 --data 'data/wiki/*.bin'");
  command->callback([arguments, &chosen] { chosen = [arguments] { return verify(*arguments); }; });
}

}  // namespace sffn
