// sffn plan: what a run would cost, on so many ranks or on a range of them.
#include "train/plan.h"

#include "data/corpus.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "train/plan_table.h"
#include "train/scaling.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdio>
#include <memory>

namespace sffn {
namespace {

constexpr int64_t kMostRanks = 1 << 20;

struct Arguments {
  std::string config, device = "cpu", ranks = "1", network, rates;
  std::vector<std::string> overrides;
  bool json = false;
};

struct RankRange {
  int64_t first = 1, last = 1;
  bool several = false;  // "A..B"
};

RankRange parse_ranks(const std::string& text) {
  const auto number = [&](const std::string& digits) {
    int64_t ranks = 0;
    const char* const end = digits.data() + digits.size();
    const auto [parsed, error] = std::from_chars(digits.data(), end, ranks);
    if (error != std::errc() || parsed != end || ranks < 1 || ranks > kMostRanks) {
      throw UsageError("--ranks", cat("is \"", text, "\"; N or A..B is expected, from 1 to ", kMostRanks));
    }
    return ranks;
  };
  const size_t dots = text.find("..");
  if (dots == std::string::npos) return {number(text), number(text), false};
  const RankRange range{number(text.substr(0, dots)), number(text.substr(dots + 2)), true};
  if (range.first > range.last) throw UsageError("--ranks", cat("is \"", text, "\", which ends before it begins"));
  return range;
}

Config load(const Arguments& arguments) {
  Config config = load_config(arguments.config, arguments.overrides);
  if (arguments.device != "cpu") {
    config.backend = "cuda";
    check_config(config, arguments.config);
  }
  if (config.model.vocab_size == 0 && !config.data.train.empty()) {
    std::vector<std::string> globs;
    for (const CorpusConfig& corpus : config.data.train) globs.push_back(corpus.path);
    config.model.vocab_size = vocab_size_from_data(globs);
  }
  return config;
}

Json scaling_of(const Arguments& arguments, const RankRange& ranks) {
  if (arguments.network.empty()) {
    throw UsageError("--network",
                     "is missing: a range of ranks needs the links between them, as in --network "
                     "per_node=8,node_gbs=450,node_us=2,net_gbs=50,net_us=5");
  }
  Scaling scaling{.first = ranks.first,
                  .last = ranks.last,
                  .network = parse_network(arguments.network),
                  .rates = {},
                  .device = arguments.device};
  if (!arguments.rates.empty()) scaling.rates = parse_rates(arguments.rates);
  return plan_scaling(load(arguments), scaling);
}

int run(const Arguments& arguments) {
  const RankRange ranks = parse_ranks(arguments.ranks);
  for (const auto& [name, text] :
       {std::pair{"--network", &arguments.network}, std::pair{"--rates", &arguments.rates}}) {
    if (!ranks.several && !text->empty()) throw UsageError(name, "is for a range of ranks, --ranks A..B");
  }
  const Json plan = ranks.several ? scaling_of(arguments, ranks)
                                  : plan_run(load(arguments), static_cast<int>(ranks.first), arguments.device);
  if (arguments.json)
    print_json(plan);
  else
    std::fputs((ranks.several ? scaling_table(plan) : plan_table(plan)).c_str(), stdout);
  return 0;
}

}  // namespace

void add_plan_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "plan", "parameters, FLOPs, memory and communication of a run, or how it scales; needs no GPU, no data");
  command->add_option("config", arguments->config, "configuration file")->required();
  command->add_option("--set", arguments->overrides, "path.to.key=value, on top of the file; may repeat");
  command
      ->add_option("--ranks", arguments->ranks,
                   "data-parallel ranks; A..B: A, 2A, 4A… ranks, on which the step of the file is that of A, and each "
                   "of more ranks does as many tokens")
      ->capture_default_str();
  command->add_option(
      "--network", arguments->network,
      "of a range of ranks the links of each, in one direction: per_node=RANKS,node_gbs=GB/s,"
      "node_us=MICROSECONDS of a message, and net_gbs,net_us between nodes (`sffn bench comm` prints it)");
  command->add_option("--rates", arguments->rates,
                      "of a range of ranks what each reaches: tflops=TFLOP/s of a pass,gbs=GB/s of the optimizer "
                      "(`sffn bench step` prints it); on a known device what it is expected to sustain");
  command->add_option("--device", arguments->device, "h200 | h100 | a100 | l40s | cpu: peaks for the step time")
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "for machines");
  command->footer(
      "Examples:\n  sffn plan configs/gpt2-124m.json --ranks 8 --device h100 --set train.precision=bf16\n"
      "  sffn plan configs/paper/avg_k-e16-g64.json --ranks 8..4096 --device h100 \\\n"
      "    --network per_node=8,node_gbs=450,node_us=2,net_gbs=50,net_us=5");
  command->callback([arguments, &chosen] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace sffn
