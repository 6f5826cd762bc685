// sffn plan: what a run would cost.
#include "train/plan.h"

#include "data/corpus.h"
#include "tools/commands.h"
#include "tools/options.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string config, device = "cpu";
  std::vector<std::string> overrides;
  int ranks = 1;
  bool json = false;
};

int run(const Arguments& arguments) {
  Config config = load_config(arguments.config, arguments.overrides);
  if (config.model.vocab_size == 0 && !config.data.train.empty()) {
    std::vector<std::string> globs;
    for (const CorpusConfig& corpus : config.data.train) globs.push_back(corpus.path);
    config.model.vocab_size = vocab_size_from_data(globs);
  }
  const Json plan = plan_run(config, arguments.ranks, arguments.device);
  if (arguments.json)
    print_json(plan);
  else
    std::fputs(plan_table(plan).c_str(), stdout);
  return 0;
}

}  // namespace

void add_plan_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("plan", "parameters, FLOPs, memory and communication of a run; needs no GPU, no data");
  command->add_option("config", arguments->config, "configuration file")->required();
  command->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  command->add_option("--ranks", arguments->ranks, "data-parallel ranks")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--device", arguments->device, "h200 | h100 | a100 | l40s | cpu: peaks for the step time")
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "for machines");
  command->footer("Example:\n  sffn plan configs/gpt2-124m.json --ranks 8 --device h100 --set train.precision=bf16");
  command->callback([arguments, &chosen] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace sffn
