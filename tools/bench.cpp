// sffn bench: what this machine does with a configuration.
#include "tools/bench/bench.h"

#include "core/file.h"
#include "core/log.h"
#include "tools/bench/comm.h"
#include "tools/bench/costs.h"
#include "tools/bench/profile.h"
#include "tools/bench/step.h"
#include "tools/commands.h"
#include "tools/numbers.h"
#include "tools/options.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string config, backend, costs;
  std::vector<std::string> overrides;
  std::vector<std::string> groups;
  std::vector<int64_t> block_sizes;
  StepBench step;
  double seconds = 0;  // 0: as the backend wants
  int64_t repeats = 0;
  bool json = false, small = false;
};

void print_collectives(const Json& report) {
  if (report.find("ranks")->as_int() == 1) std::printf("one rank sends nothing; start this under mpirun\n");
  std::printf("%-20s %14s %12s %14s\n", "collective", "sent by a rank", "time", "rate");
  for (const Json& row : report.find("collectives")->as_array()) {
    std::printf("%-20s %10.1f KiB %9.3f ms %9.3f GB/s\n", row.find("collective")->as_string().c_str(),
                row.find("bytes")->as_double() / 1024, row.find("ms")->as_double(),
                row.find("gigabytes_per_second")->as_double());
  }
  const Json& network = *report.find("network");
  if (!network.is_null()) std::printf("for sffn plan: --network %s\n", network.as_string().c_str());
}

void print_step(const Json& report) {
  const auto number = [&](const char* key) { return report.find(key)->as_double(); };
  const int64_t ranks = report.find("ranks")->as_int();
  std::printf("%s on %ld rank%s, medians of a step\n", report.find("name")->as_string().c_str(),
              static_cast<long>(ranks), ranks == 1 ? "" : "s");
  std::printf("  step                  %10.3f ms\n", number("step_ms"));
  std::printf("  forward and backward  %10.3f ms\n", number("forward_backward_ms"));
  std::printf("  optimizer             %10.3f ms\n", number("optimizer_ms"));
  std::printf("  exposed communication %10.3f ms, %.3f ms on the rank that waits least for others\n",
              number("exposed_communication_ms"), number("least_communication_ms"));
  std::printf("  throughput            %10.0f tokens/s, %.4f model TFLOP/s\n", number("tokens_per_second"),
              number("model_tflops"));
  if (!report.find("mfu")->is_null()) {
    std::printf("  MFU                   %10.1f%% of the peak of %s\n", 100 * number("mfu"),
                report.find("device")->as_string().c_str());
  }
  std::printf("  memory of rank 0      %10.1f MiB\n", number("memory_bytes") / (1 << 20));
  std::printf("  for sffn plan         --rates %s\n", report.find("rates")->as_string().c_str());
  for (const Json& line : report.find("products")->as_array()) std::printf("  product %s\n", line.as_string().c_str());
  if (report.find("profile") == nullptr) return;
  std::printf("  outside of kernels    %10.3f ms\n\n", number("outside_kernels_ms"));
  std::fputs(format_profile(*report.find("profile")).c_str(), stdout);
}

Config load_model(Communicator& ranks, const Arguments& arguments) {
  Config config = load_config_together(ranks, arguments.config, arguments.overrides, arguments.backend);
  if (config.model.vocab_size == 0) {
    throw UsageError("model.vocab_size", "is from_data, and a benchmark reads no data; use --set model.vocab_size=N");
  }
  return config;
}

int run_step(World& world, const Arguments& arguments) {
  Communicator& ranks = world.ranks();
  log::start(ranks.rank(), output_of(arguments.json));
  const Config config = load_model(ranks, arguments);
  const OpenDevice device = open_device(config.backend, world);
  log_world(world, device);
  const Json report = bench_step(config, *device.ranks, *device.runtime, arguments.step);
  if (ranks.rank() != 0) return 0;
  if (arguments.json)
    print_json(report);
  else
    print_step(report);
  return 0;
}

int run_ops(World& world, const Arguments& arguments) {
  log::start(world.ranks().rank(), output_of(arguments.json));
  if (!arguments.costs.empty()) {
    require_folder_of("--write-costs", arguments.costs);
    log_world(world, cpu_device(world));
    const std::string table = measure_expert_costs([](const std::string& line) { log::info(line); });
    if (world.ranks().rank() == 0) write_file_atomically(arguments.costs, table);
    return 0;
  }
  if (arguments.config.empty()) throw UsageError("bench ops", "needs a configuration file, or --write-costs FILE");
  const Config config = load_model(world.ranks(), arguments);
  const OpenDevice device = open_device(config.backend, world);
  log_world(world, device);
  BenchOptions options{config, effort_for(device.runtime->device()), arguments.groups, arguments.block_sizes,
                       arguments.small};
  if (arguments.seconds > 0) options.effort.seconds = arguments.seconds;
  if (arguments.repeats > 0) {
    options.effort.repeats = arguments.repeats;
    options.effort.warm_ups = (arguments.repeats + 1) / 2;
  }
  const Json report = bench_ops(options, *device.runtime);
  if (world.ranks().rank() != 0) return 0;
  if (arguments.json)
    print_json(report);
  else
    std::fputs(format_bench_ops(report).c_str(), stdout);
  return 0;
}

int run_comm(World& world, const Arguments& arguments) {
  log::start(world.ranks().rank(), output_of(arguments.json));
  const OpenDevice device = open_device(arguments.backend.empty() ? "auto" : arguments.backend, world);
  log_world(world, device);
  const Json report =
      bench_comm(*device.ranks, *device.runtime, world.placement(), static_cast<int>(arguments.repeats));
  if (world.ranks().rank() != 0) return 0;
  if (arguments.json)
    print_json(report);
  else
    print_collectives(report);
  return 0;
}

}  // namespace

void add_bench_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("bench", "measure steps, kernels or communication");
  command->require_subcommand(1);
  command->footer("Example:\n  sffn bench step configs/bench/small.json");

  CLI::App* step =
      command->add_subcommand("step", "one training step on random tokens, one micro-batch a rank; medians");
  step->add_option("config", arguments->config, "configuration file")->required();
  step->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  step->add_option("--steps", arguments->step.steps, "timed steps")->check(positive())->capture_default_str();
  step->add_option("--warm-up", arguments->step.warm_up, "steps before them")->check(positive())->capture_default_str();
  step->add_flag("--profile", arguments->step.profile,
                 "one more step, whose kernels are timed and held against the device's roofline (cuda)");
  step->add_option("--backend", arguments->backend, "auto | cpu | cuda");
  step->add_flag("--json", arguments->json, "for machines");
  step->footer(
      "Examples:\n  sffn bench step configs/bench/small.json --set train.precision=bf16\n"
      "  sffn bench step configs/gpt2-124m.json --backend cuda --set train.precision=bf16 --profile");
  step->callback([arguments, &chosen] {
    chosen = [arguments] { return run_world([&](World& world) { return run_step(world, *arguments); }); };
  });

  CLI::App* ops = command->add_subcommand(
      "ops", "each matrix product of a micro-batch alone, their sum, and the rates of the other ops; or groups of ops");
  ops->add_option("config", arguments->config, "configuration file");
  ops->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  ops->add_option("--group", arguments->groups,
                  "A: ceilings of the device and the model's products. B: attention. C: ops bound by memory. D: the "
                  "block product at every granularity. May repeat");
  ops->add_option("--block-size", arguments->block_sizes, "of group D alone this one; may repeat");
  ops->add_option("--seconds", arguments->seconds, "an op repeats for about so long (cpu: 0.25, cuda: 0.02)")
      ->check(positive());
  ops->add_option("--repeats", arguments->repeats, "and at least so often (cpu: 5, cuda: 20, after half as many)")
      ->check(positive());
  ops->add_flag("--small", arguments->small, "groups at small sizes: to try the program, not the machine");
  ops->add_option("--write-costs", arguments->costs,
                  "instead: measure both forms of the block product and write their table, src/ffn/expert_costs.inc");
  ops->add_option("--backend", arguments->backend, "auto | cpu | cuda");
  ops->add_flag("--json", arguments->json, "for machines");
  ops->footer(
      "Examples:\n  sffn bench ops configs/bench/small.json --seconds 1\n"
      "  sffn bench ops configs/bench/gpt2-124m.json --backend cuda --group A --group D --json\n"
      "  sffn bench ops --write-costs src/ffn/expert_costs.inc      (minutes; on an idle machine)");
  ops->callback([arguments, &chosen] {
    chosen = [arguments] { return run_world([&](World& world) { return run_ops(world, *arguments); }); };
  });

  CLI::App* comm = command->add_subcommand("comm", "the collectives of a step; start it under mpirun");
  comm->add_option("--repeats", arguments->repeats, "calls of each (101 of up to 256 KiB, 9 of more)")
      ->check(CLI::Range(1, 1000));
  comm->add_option("--backend", arguments->backend, "auto | cpu | cuda");
  comm->add_flag("--json", arguments->json, "for machines");
  comm->footer("Example:\n  mpirun -np 2 sffn bench comm");
  comm->callback([arguments, &chosen] {
    chosen = [arguments] { return run_world([&](World& world) { return run_comm(world, *arguments); }); };
  });
}

}  // namespace sffn
