// sffn train: one rank of a training run.
#include "core/fault.h"
#include "core/log.h"
#include "core/signals.h"
#include "tools/commands.h"
#include "tools/numbers.h"
#include "tools/options.h"
#include "train/trainer.h"

#include <CLI/CLI.hpp>

#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string config, run, resume = "auto", backend;
  std::vector<std::string> overrides;
  int64_t steps = 0;
  bool no_verify = false, faults = false;
};

int run_rank(World& world, const Arguments& arguments) {
  Communicator& ranks = world.ranks();
  log::start(ranks.rank());
  log::keep_for_file();
  if (arguments.faults) enable_fault_injection(ranks.rank());
  fault_point("init", -1);
  std::vector<std::string> overrides = arguments.overrides;
  if (arguments.steps > 0) overrides.push_back(cat("train.steps=", arguments.steps));
  const Config config = load_config_together(ranks, arguments.config, overrides, arguments.backend);
  world.start_watchdog({static_cast<double>(config.train.watchdog.start_seconds),
                        static_cast<double>(config.train.watchdog.step_seconds)});
  const Beat beat = [&](const Position& at) {
    if (at.waits)
      world.heartbeat().wait(at.step, at.phase);
    else
      world.heartbeat().beat(at.step, at.phase, at.item);
  };

  TrainOptions options;
  options.run = arguments.run.empty() ? "runs/" + config.name : arguments.run;
  options.resume = arguments.resume;
  options.verify = !arguments.no_verify;
  const OpenDevice device = open_device(config.backend, world);
  log_world(world, device);
  log_layout(world, config.parallel);
  const RunEnd end = train(config, options, *device.ranks, *device.runtime, beat);
  fault_point("finalize", end.step);
  log::info(end.end == "done" ? "done" : "stopped", " at step ", end.step, "; checkpoint: ", options.run,
            "/checkpoints, newest step ", end.saved_step);
  return 0;
}

}  // namespace

void add_train_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("train", "train a model: alone, under mpirun or under srun");
  command->add_option("config", arguments->config, "configuration file (configs/README.md lists every key)")
      ->required();
  command->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  command->add_option("--run", arguments->run, "folder of the run; default runs/NAME of the configuration");
  command
      ->add_option(
          "--resume", arguments->resume,
          "auto: newest sound checkpoint | never: start anew | a step's folder, or a run's: its newest sound step")
      ->capture_default_str();
  command->add_option("--steps", arguments->steps, "the total, in place of train.steps")->check(positive());
  command->add_option("--backend", arguments->backend, "auto | cpu | cuda, in place of the configuration's");
  command->add_flag("--no-verify", arguments->no_verify, "do not compare checksums when a checkpoint is loaded");
  command->add_flag("--enable-fault-injection", arguments->faults, "obey SFFN_FAULT; for tests of failures");
  command->footer(
      "Examples:\n"
      "  sffn train configs/quickstart.json --run runs/a\n"
      "  mpirun -np 2 --bind-to none sffn train configs/quickstart.json --run runs/a --set optimizer.lr=1e-3\n"
      "A second start with the same --run resumes, on any number of ranks. kill -USR1 to mpirun saves and stops.");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      signals::install();
      return run_world([&](World& world) { return run_rank(world, *arguments); });
    };
  });
}

}  // namespace sffn
