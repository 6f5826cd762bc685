// sffn eval: perplexity of named held-out sets.
#include "comm/agree.h"
#include "core/file.h"
#include "core/log.h"
#include "core/signals.h"
#include "tools/commands.h"
#include "tools/numbers.h"
#include "tools/options.h"
#include "train/counters.h"
#include "train/evaluate.h"
#include "train/inference.h"
#include "train/training_data.h"

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>
#include <iomanip>
#include <memory>

namespace sffn {
namespace {

struct Arguments {
  std::string checkpoint, out, usage, backend = "auto";
  std::vector<std::string> data;
  int64_t context = 0, stride = 0, batch = 8;
  bool json = false, no_verify = false;
};

std::map<std::string, EvalSource> open_sets(const Arguments& arguments, const InferenceModel& model) {
  std::map<std::string, EvalSource> sets;
  for (const std::string& text : arguments.data) {
    const auto [name, glob] = parse_named_glob(text);
    EvalOptions options;
    options.context = model.time();
    options.stride = arguments.stride;
    options.vocab_size = model.config().model.vocab_size;
    options.document_mask = model.config().data.document_mask;
    const auto [set, added] = sets.emplace(name, EvalSource(glob, options));
    if (!added) throw UsageError("--data " + text, cat("the name ", name, " stands twice; give each set its own"));
    require_tokenizer(model.checkpoint().trainer, set->second.corpus());
  }
  return sets;
}

// A line every few seconds: windows done, and the time left.
class ProgressLines {
 public:
  void show(const std::string& name, int64_t done, int64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (done == 0) started_ = shown_ = now;
    if (std::chrono::duration<double>(now - shown_).count() < 5) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - started_).count();
    const double left = seconds / static_cast<double>(done) * static_cast<double>(total - done);
    log::info(name, ": ", done, " of ", total, " batches, ", static_cast<int64_t>(left), " s left");
  }

 private:
  std::chrono::steady_clock::time_point started_, shown_;
};

Json report_of(const Arguments& arguments, InferenceModel& model,
               const std::map<std::string, EvaluationResult>& results) {
  Json report;
  report["checkpoint"] = model.checkpoint().folder;
  report["step"] = model.checkpoint().step;
  report["backend"] = model.stream().is_cuda() ? "cuda" : "cpu";
  report["context"] = model.time();
  report["stride"] = arguments.stride == 0 ? model.time() : arguments.stride;
  Json sets = Json::object();
  for (const auto& [name, r] : results) {
    Json set;
    set["tokens"] = r.tokens;
    set["bytes"] = r.bytes ? Json(*r.bytes) : Json();
    set["nll"] = r.nll;
    set["perplexity"] = r.perplexity;
    set["bits_per_byte"] = r.bits_per_byte ? Json(*r.bits_per_byte) : Json();
    sets[name] = set;
  }
  report["sets"] = sets;
  report["macro_perplexity"] = macro_perplexity(results);
  report["micro_perplexity"] = micro_perplexity(results);
  report["normaliser"] = "scored tokens; the end of a document is scored and counts 0 bytes";
  report["documents"] = model.config().data.document_mask
                            ? "attention and positions restart at each document"
                            : "windows run over document ends; the first token of a shard is not scored";
  return report;
}

void print_table(const Json& report) {
  std::printf("%s, context %ld, stride %ld\n", report.find("checkpoint")->as_string().c_str(),
              report.find("context")->as_int(), report.find("stride")->as_int());
  std::printf("\n%-16s %12s %12s %10s %12s %10s\n", "set", "tokens", "bytes", "nll", "perplexity", "bits/byte");
  for (const Json::Member& set : report.find("sets")->as_object()) {
    const Json* bytes = set.value.find("bytes");
    const Json* bits = set.value.find("bits_per_byte");
    std::printf("%-16s %12ld %12s %10.5f %12.4f %10s\n", set.key.c_str(), set.value.find("tokens")->as_int(),
                bytes->is_null() ? "unknown" : std::to_string(bytes->as_int()).c_str(),
                set.value.find("nll")->as_double(), set.value.find("perplexity")->as_double(),
                bits->is_null() ? "unknown" : cat(std::fixed, std::setprecision(4), bits->as_double()).c_str());
  }
  std::printf("\nmacro perplexity %.4f, micro perplexity %.4f\n", report.find("macro_perplexity")->as_double(),
              report.find("micro_perplexity")->as_double());
  std::printf("normaliser: %s\ndocuments: %s\n", report.find("normaliser")->as_string().c_str(),
              report.find("documents")->as_string().c_str());
}

// {"LAYER": {"load": [choices of each block], statistics…}} since the counters were cleared, over all ranks.
Json usage_of(InferenceModel& model, Communicator& ranks) {
  const std::vector<std::vector<double>> counters = gather_counters(model.model(), model.stream(), ranks);
  const Json load = block_load(model.model(), counters);
  Json layers = Json::object();
  for (size_t i = 0; i < counters.size(); ++i) {
    if (counters[i].empty()) continue;
    Json layer = model.model().ffn_layers()[i]->statistics(counters[i]);
    if (const Json* blocks = load.find(cat(i))) layer["load"] = *blocks;
    layers[cat(i)] = std::move(layer);
  }
  return layers;
}

int run_rank(World& world, const Arguments& arguments) {
  log::start(world.ranks().rank(), output_of(arguments.json));
  world.start_watchdog({});
  together(world.ranks(), [&] {
    require_folder_of("--out", arguments.out);
    require_folder_of("--usage", arguments.usage);
  });
  const OpenDevice device = open_device(arguments.backend, world);
  if (!arguments.json) log_world(world, device);  // the JSON is the same on any ranks
  Communicator& ranks = *device.ranks;
  ReadOptions read;
  read.verify = !arguments.no_verify;
  read.progress = [&, block = int64_t{0}]() mutable { world.heartbeat().beat(0, "load", ++block); };
  InferenceModel model(ranks, *device.runtime, arguments.checkpoint, arguments.batch, arguments.context, read);
  std::map<std::string, EvalSource> sets;
  together(ranks, [&] { sets = open_sets(arguments, model); });

  std::map<std::string, EvaluationResult> results;
  Json usage = Json::object();
  if (!arguments.usage.empty()) model.count_choices();
  ProgressLines lines;
  for (const auto& [name, source] : sets) {
    clear_counters(model.model(), model.stream());
    const auto progress = [&, set = name](int64_t done, int64_t total) {
      world.heartbeat().beat(0, "evaluation", done + 1);
      lines.show(set, done, total);
      return !signals::stop_requested();
    };
    const auto token_nll = [&](const Batch& batch) { return model.token_nll(batch); };
    if (!evaluate_set(source, arguments.batch, ranks, token_nll, progress, results[name])) {
      return interrupted(ranks.max_value(signals::stop_signal()));
    }
    usage[name] = usage_of(model, ranks);
  }
  together(ranks, [&] {
    if (ranks.rank() != 0) return;
    const Json report = report_of(arguments, model, results);
    if (!arguments.usage.empty()) write_file_atomically(arguments.usage, usage.dump(2) + "\n");
    if (!arguments.out.empty()) write_file_atomically(arguments.out, report.dump(2) + "\n");
    if (arguments.json)
      print_json(report);
    else
      print_table(report);
  });
  return 0;
}

}  // namespace

void add_eval_command(CLI::App& app, Chosen& chosen) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("eval", "perplexity and bits per byte of held-out sets");
  command->add_option("--checkpoint", arguments->checkpoint, "step folder, or run folder: its newest sound step")
      ->required();
  command->add_option("--data", arguments->data, "NAME=GLOB of token shards; may repeat")->required();
  command->add_option("--context", arguments->context, "tokens a window; default: the model's")->check(positive());
  command
      ->add_option("--stride", arguments->stride,
                   "a window scores its last STRIDE tokens, the first all; default: context")
      ->check(positive());
  command
      ->add_option("--batch", arguments->batch,
                   "windows at a time; where tokens share a block's capacity, those of a batch do")
      ->check(positive())
      ->capture_default_str();
  command->add_option("--out", arguments->out, "also write the JSON report here");
  command->add_option(
      "--usage", arguments->usage,
      "write here, per set and sparse layer, how often each block was chosen: by a token in each window that has it");
  command->add_option("--backend", arguments->backend, "auto | cpu | cuda")->capture_default_str();
  command->add_flag("--json", arguments->json, "print the JSON report in place of the table");
  command->add_flag("--no-verify", arguments->no_verify, "do not compare checksums when the checkpoint is loaded");
  command->footer(
      "Example:\n"
      "  mpirun -np 2 sffn eval --checkpoint runs/a --data wiki=data/wiki/val-*.bin --data code=data/code/val-*.bin\n"
      "The result is the same for any number of ranks.");
  command->callback([arguments, &chosen] {
    chosen = [arguments] {
      signals::install();
      return run_world([&](World& world) { return run_rank(world, *arguments); });
    };
  });
}

}  // namespace sffn
