// sffn: one binary with subcommands. Each lives in the file of its name.
#include "core/error.h"
#include "core/log.h"
#include "tools/commands.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>
#include <new>
#include <string>
#include <vector>

namespace {

int fail(sffn::ExitCode code, const std::string& message) {
  sffn::log::error(message);
  return static_cast<int>(code);
}

}  // namespace

int main(int argc, char** argv) {
  using sffn::ExitCode;
  CLI::App app{"sffn: pretraining of language models with sparse feed-forward networks"};
  app.name("sffn");
  app.require_subcommand(1);
  app.set_version_flag("--version", SFFN_VERSION);
  app.footer("Start here: scripts/quickstart.sh, or `sffn COMMAND --help` for a command's options and examples.");

  sffn::Chosen chosen;
  sffn::add_prepare_command(app, chosen);
  sffn::add_train_command(app, chosen);
  sffn::add_eval_command(app, chosen);
  sffn::add_generate_command(app, chosen);
  sffn::add_plan_command(app, chosen);
  sffn::add_probe_command(app, chosen);
  sffn::add_compare_command(app, chosen);
  sffn::add_describe_command(app, chosen);
  sffn::add_verify_command(app, chosen);
  sffn::add_bench_command(app, chosen);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::string command = "sffn";
    for (const CLI::App* at = &app; !at->get_subcommands().empty(); command += " " + at->get_name()) {
      at = at->get_subcommands()[0];
    }
    std::string wrong = e.what();
    const std::vector<std::string> unknown = app.remaining(true);
    if (wrong.starts_with("A subcommand is required") && !unknown.empty()) wrong = unknown[0] + " is not a command";
    return fail(ExitCode::kUsage, "command line: " + wrong + "; see `" + command + " --help`");
  }

  try {
    const int code = chosen();
    std::cout.flush();
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    return fail(ExitCode::kRunFailed, "stdout: what was printed is not all written; is the disk full?");
  } catch (const sffn::Error& e) {
    return fail(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::kRunFailed, "memory: not enough on this machine; use a smaller model or micro_batch");
  } catch (const std::exception& e) {
    return fail(ExitCode::kRunFailed, std::string("unexpected: ") + e.what());
  }
}
