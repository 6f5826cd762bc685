// sffn generate: a continuation of a prompt.
#include "core/log.h"
#include "core/signals.h"
#include "tools/commands.h"
#include "tools/numbers.h"
#include "tools/options.h"
#include "tools/terminal_text.h"
#include "train/inference.h"
#include "train/sample.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string checkpoint, prompt, backend = "auto";
  int64_t tokens = 100;
  uint64_t seed = 1;
  SampleOptions sample;
};

int run_rank(World& world, const Arguments& arguments) {
  log::start(world.ranks().rank(), log::Output::kResult);
  const OpenDevice device = open_device(arguments.backend, world);
  check(arguments.sample);
  InferenceModel model(*device.ranks, *device.runtime, arguments.checkpoint, 1, 0);
  log_world(world, device);
  const std::unique_ptr<Tokenizer> tokenizer = model.tokenizer();
  std::vector<int32_t> ids;
  tokenizer->encode(ids, arguments.prompt);
  if (ids.empty()) ids.push_back(tokenizer->end_of_document());  // an empty prompt: a new document begins

  TerminalText out;
  out.add(arguments.prompt);
  const RandomKey key = random_key(arguments.seed, RandomSite::kSampling, 0, 0);
  for (int64_t i = 0; i < arguments.tokens && !signals::stop_requested(); ++i) {
    std::vector<float> logits = model.decode(ids);
    if (std::ssize(logits) > tokenizer->vocab_size()) logits.resize(tokenizer->vocab_size());  // other ids have no text
    ids = {sample_token(logits, arguments.sample, random_uniform(key, static_cast<uint64_t>(i)))};
    if (ids[0] == tokenizer->end_of_document()) break;
    out.add(tokenizer->text_of(ids[0]));
  }
  out.end();
  return signals::stop_requested() ? interrupted(signals::stop_signal()) : 0;
}

}  // namespace

void add_generate_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("generate", "continue a prompt");
  command->add_option("--checkpoint", arguments->checkpoint, "step folder, or run folder: its newest sound step")
      ->required();
  command->add_option("--prompt", arguments->prompt, "text to continue")->required();
  command->add_option("--tokens", arguments->tokens, "at most so many; the end of a document ends it")
      ->check(positive())
      ->capture_default_str();
  command->add_option("--temperature", arguments->sample.temperature, "0: the most probable token")
      ->capture_default_str();
  command->add_option("--top-k", arguments->sample.top_k, "draw from the k most probable; 0: all")
      ->capture_default_str();
  command->add_option("--top-p", arguments->sample.top_p, "draw from the most probable that sum to p")
      ->capture_default_str();
  command->add_option("--seed", arguments->seed, "the same seed gives the same text")
      ->check(not_below_zero())
      ->capture_default_str();
  command->add_option("--backend", arguments->backend, "auto | cpu | cuda")->capture_default_str();
  command->footer(
      "Example:\n  sffn generate --checkpoint runs/a --prompt 'Once upon' --tokens 200 --temperature 0.8 --top-p 0.95");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      signals::install();
      return run_world([&](World& world) { return run_rank(world, *arguments); });
    };
  });
}

}  // namespace sffn
