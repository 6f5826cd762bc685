// sffn prepare: text files to token shards.
#include "data/prepare.h"

#include "core/log.h"
#include "tools/commands.h"

#include <CLI/CLI.hpp>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

namespace sffn {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string megabytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) * 1e-6);
  return text;
}

// One line that is drawn again on a terminal; elsewhere a line every few seconds.
class ProgressDisplay {
 public:
  ~ProgressDisplay() { end_line(); }

  void show(const PrepareProgress& progress) {
    if (phase_ != progress.phase) {
      end_line();
      phase_ = progress.phase;
      started_ = shown_ = Clock::now();
    }
    const bool last = progress.bytes == progress.total_bytes;
    if (seconds_since(shown_) < (terminal_ ? 0.2 : 5.0) && !(terminal_ && last)) return;
    shown_ = Clock::now();
    const std::string line = describe(progress);
    if (!terminal_) return log::info(line);
    std::printf("\r%s\x1b[K", line.c_str());
    std::fflush(stdout);
    drawn_ = true;
  }
  void end_line() {
    if (drawn_) std::printf("\n");
    drawn_ = false;
  }

 private:
  std::string describe(const PrepareProgress& progress) const {
    const double seconds = seconds_since(started_);
    const double rate = seconds > 0 ? static_cast<double>(progress.bytes) / seconds : 0;
    std::string line = cat(progress.phase, ": ");
    if (progress.bytes == 0) return line + "...";
    const auto rest = static_cast<double>(progress.total_bytes - std::min(progress.bytes, progress.total_bytes));
    char numbers[96];
    std::snprintf(numbers, sizeof numbers, ", %.1f MB/s, %.0f s left", rate * 1e-6, rest / rate);
    return line + megabytes(progress.bytes) + " of " + megabytes(progress.total_bytes) + numbers;
  }

  const bool terminal_ = isatty(STDOUT_FILENO) != 0;
  std::string phase_;
  Clock::time_point started_, shown_;
  bool drawn_ = false;
};

std::string describe(const SideRecord& side) {
  return cat(side.documents, " documents, ", side.tokens, " tokens in ", side.shards.size(),
             side.shards.size() == 1 ? " shard" : " shards");
}

void report(const PrepareOptions& options, const PrepareSummary& summary, double seconds) {
  const Manifest& m = summary.manifest;
  for (const std::string& note : summary.notes) log::info(note);
  if (summary.already_complete) {
    log::info(options.out, " is complete: the same text was prepared with the same options; nothing to do");
  } else {
    if (summary.resumed_shards > 0)
      log::info("went on after ", summary.resumed_shards, " shards of an interrupted run");
    char rate[32];
    std::snprintf(rate, sizeof rate, "%.1f s, %.1f MB/s", seconds,
                  static_cast<double>(summary.text_bytes) * 1e-6 / seconds);
    log::info(summary.files, " files, ", megabytes(static_cast<uint64_t>(summary.text_bytes)), " of text in ", rate,
              "; dropped: ", m.duplicates, " duplicates, ", m.empty, " empty");
  }
  if (m.invalid_utf8_bytes > 0) log::info(m.invalid_utf8_bytes, " bytes of invalid UTF-8, kept as they are");
  log::info("tokenizer ", m.tokenizer_name, ", vocabulary ", m.vocab_size);
  log::info("train: ", describe(m.train));
  log::info("validation: ", describe(m.validation));
  if (!summary.already_complete) log::info("wrote ", options.out, "/", kManifestName);
}

int run(PrepareOptions options, const std::string& tokenizer) {
  options.tokenizer = parse_tokenizer_choice(tokenizer);
  ProgressDisplay display;
  const auto start = Clock::now();
  const PrepareSummary summary = prepare(options, [&](const PrepareProgress& progress) { display.show(progress); });
  display.end_line();
  report(options, summary, seconds_since(start));
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

void add_prepare_command(CLI::App& app, Chosen& chosen) {
  struct Arguments {
    PrepareOptions options;
    std::string tokenizer = "bytes";
  };
  const auto arguments = std::make_shared<Arguments>();  // the parser writes here long after this function
  PrepareOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("prepare", "Text files to token shards for training and validation");
  command
      ->add_option("--input", options.inputs, "Files, folders and globs of .txt and .md, also .gz or .zst; may repeat")
      ->required();
  command->add_option("--out", options.out, "Folder of the shards and manifest.json")->required();
  command->add_option("--tokenizer", arguments->tokenizer, "bytes | spm:FILE | spm-train:VOCAB")->capture_default_str();
  command->add_option("--val-fraction", options.val_fraction, "Share of the documents, chosen by hash, for validation")
      ->capture_default_str();
  command->add_option("--shard-tokens", options.shard_tokens, "Most tokens of a shard")->capture_default_str();
  command->add_option("--name", options.name, "Name in the manifest [last component of --out]");
  command->add_option("--jobs", options.jobs, "Threads [all processors of the affinity mask]")
      ->check(CLI::Range(1, 1024));
  command->footer(
      "Examples:\n"
      "  sffn prepare --input book.txt --out data/book\n"
      "  sffn prepare --input /usr/share/doc 'notes/*.md.gz' --out data/docs --tokenizer spm-train:8192\n"
      "An interrupted command goes on where it stopped when it is given again.");
  command->callback(
      [arguments, &chosen] { chosen = [arguments] { return run(arguments->options, arguments->tokenizer); }; });
}

}  // namespace sffn
