// sffn probe: one forward and backward pass, everything written out.
#include "train/probe.h"

#include "core/log.h"
#include "data/corpus.h"
#include "tools/commands.h"
#include "tools/numbers.h"
#include "tools/options.h"

#include <CLI/CLI.hpp>

#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string config, checkpoint, backend;
  std::vector<std::string> overrides;
  ProbeOptions options;
};

int run(const Arguments& arguments) {
  if (arguments.config.empty() == arguments.checkpoint.empty()) {
    throw UsageError("probe", "give either a configuration file or --checkpoint DIR");
  }
  require_folder_of("--out", arguments.options.out);
  const auto alone = make_self_communicator();
  std::optional<FoundCheckpoint> from;
  Config config;
  if (!arguments.checkpoint.empty()) {
    if (!arguments.options.save.empty() || !arguments.overrides.empty()) {
      throw UsageError("probe --checkpoint", "takes neither --save nor --set; they go with a configuration file");
    }
    from = find_checkpoint(*alone, arguments.checkpoint);
    config = parse_config(from->config, from->folder + "/config.json");
  } else {
    config = load_config_for(arguments.backend, arguments.config, arguments.overrides);
  }
  DeviceRuntime& device = open_device_alone(arguments.backend.empty() ? config.backend : arguments.backend);
  if (config.model.vocab_size == 0) {
    std::vector<std::string> globs;
    for (const CorpusConfig& corpus : config.data.train) globs.push_back(corpus.path);
    if (globs.empty())
      throw UsageError("model.vocab_size", "is from_data, and there is no data; use --set model.vocab_size=N");
    config.model.vocab_size = vocab_size_from_data(globs);
  }
  probe(config, from, device, arguments.options);
  log::info("wrote ", arguments.options.out, ", computed on ", device.device().str());
  return 0;
}

}  // namespace

void add_probe_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("probe", "loss, logits, hidden states and every gradient of one pass, for checks");
  command->add_option("config", arguments->config, "configuration file: the initial weights");
  command->add_option("--checkpoint", arguments->checkpoint, "step folder, or run folder: its newest sound step");
  command->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  command->add_option("--tokens", arguments->options.tokens, "raw little-endian int32: B rows of T + 1 ids")
      ->required();
  command->add_option("--batch", arguments->options.batch, "B")->required()->check(positive());
  command->add_option("--out", arguments->options.out, "safetensors file to write")->required();
  command->add_option("--save", arguments->options.save,
                      "also write the initial weights as a checkpoint into this folder");
  command->add_option("--backend", arguments->backend, "auto | cpu | cuda");
  command->add_flag("--training", arguments->options.training, "dropout and choices as in training");
  command->footer(
      "Example:\n  sffn probe configs/tiny/dense.json --tokens ids.i32 --batch 2 --out probe.safetensors --save "
      "weights");
  command->callback([arguments, &chosen] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace sffn
