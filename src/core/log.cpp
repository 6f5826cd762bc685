#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <vector>

namespace sffn::log {
namespace {

int rank_of_process = 0;
bool to_stderr_only = false;
bool drop_information = false;
bool warned_of_file = false;
std::mutex guard;
std::shared_ptr<spdlog::logger> file_logger;

std::shared_ptr<spdlog::logger> make(spdlog::sink_ptr sink) {
  auto logger = std::make_shared<spdlog::logger>("sffn", std::move(sink));
  logger->set_pattern("%v");
  logger->set_level(spdlog::level::info);
  logger->flush_on(spdlog::level::info);
  logger->set_error_handler([](const std::string& what) {
    const std::lock_guard<std::mutex> lock(guard);
    if (!std::exchange(warned_of_file, true)) fprintf(stderr, "warning: the log cannot be written: %s\n", what.c_str());
  });
  return logger;
}

spdlog::logger& console(bool error_stream) {
  static const auto out = make(std::make_shared<spdlog::sinks::stdout_sink_mt>());
  static const auto err = make(std::make_shared<spdlog::sinks::stderr_sink_mt>());
  return error_stream ? *err : *out;
}

void put(const std::string& text, bool error_stream) {
  const std::string marked = rank_of_process == 0 ? text : cat("[rank ", rank_of_process, "] ", text);
  console(error_stream || to_stderr_only).info(marked);
  if (file_logger) file_logger->info(marked);
}

}  // namespace

void start(int rank, bool to_stderr, bool quiet) {
  rank_of_process = rank;
  to_stderr_only = to_stderr;
  drop_information = quiet;
}

void also_to_file(const std::string& path) {
  try {
    file_logger = make(std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
  } catch (const spdlog::spdlog_ex& e) {
    warn(path, ": the log cannot be written: ", e.what());
  }
}

void info_line(const std::string& text) {
  if (rank_of_process == 0 && !drop_information) put(text, false);
}
void warn_line(const std::string& text) { put("warning: " + text, true); }
void error_line(const std::string& text) { put("error: " + text, true); }

}  // namespace sffn::log
