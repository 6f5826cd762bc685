// sffn generate: a continuation of a prompt.
#include "core/log.h"
#include "core/signals.h"
#include "tools/commands.h"
#include "tools/options.h"
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

// The last `limit` ids as one row.
Batch window(const std::vector<int32_t>& ids, int64_t limit) {
  const int64_t length = std::min<int64_t>(limit, static_cast<int64_t>(ids.size()));
  Batch batch = make_batch(1, length);
  std::copy(ids.end() - length, ids.end(), batch.inputs.begin());
  return batch;
}

// Text that a terminal shows as text: control characters but newline and tab become '?'.
void print_text(std::string text) {
  for (char& c : text) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f) c = '?';
  }
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

int run_rank(World& world, const Arguments& arguments) {
  log::start(world.ranks().rank(), true, true);
  (void)choose_backend(arguments.backend);
  InferenceModel model(world.ranks(), arguments.checkpoint, 1, 0);
  const std::unique_ptr<Tokenizer> tokenizer = model.tokenizer();
  std::vector<int32_t> ids;
  tokenizer->encode(ids, arguments.prompt);
  if (ids.empty()) ids.push_back(tokenizer->end_of_document());  // an empty prompt: a new document begins

  print_text(arguments.prompt);
  const RandomKey key = random_key(arguments.seed, RandomSite::kSampling, 0, 0);
  for (int64_t i = 0; i < arguments.tokens && !signals::stop_requested(); ++i) {
    const std::vector<float> logits = model.next_token_logits(window(ids, model.time()));
    ids.push_back(sample_token(logits, arguments.sample, random_uniform(key, static_cast<uint64_t>(i))));
    if (ids.back() == tokenizer->end_of_document()) break;
    print_text(std::string(tokenizer->text_of(ids.back())));
  }
  std::printf("\n");
  return signals::stop_requested() ? interrupted(signals::stop_signal()) : 0;
}

}  // namespace

void add_generate_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("generate", "continue a prompt");
  command->add_option("--checkpoint", arguments->checkpoint, "step folder, or run folder: its newest sound step")->required();
  command->add_option("--prompt", arguments->prompt, "text to continue")->required();
  command->add_option("--tokens", arguments->tokens, "at most so many; the end of a document ends it")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", arguments->sample.temperature, "0: the most probable token")->capture_default_str();
  command->add_option("--top-k", arguments->sample.top_k, "draw from the k most probable; 0: all")->capture_default_str();
  command->add_option("--top-p", arguments->sample.top_p, "draw from the most probable that sum to p")->capture_default_str();
  command->add_option("--seed", arguments->seed, "the same seed gives the same text")->capture_default_str();
  command->add_option("--backend", arguments->backend, "auto | cpu | cuda")->capture_default_str();
  command->footer("Example:\n  sffn generate --checkpoint runs/a --prompt 'Once upon' --tokens 200 --temperature 0.8 --top-p 0.95");
  command->callback([arguments, &chosen] {
    chosen = [arguments] { return run_world([&](World& world) { return run_rank(world, *arguments); }); };
  });
}

}  // namespace sffn
