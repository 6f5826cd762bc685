#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace sffn::log {
namespace {

int rank_of_process = 0;
Output output_of_process = Output::kLines;
bool warned_of_file = false;
std::mutex guard;
std::vector<std::string> held_warnings;
std::optional<std::vector<std::string>> kept_for_file;
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
  console(error_stream).info(marked);
  if (file_logger) file_logger->info(marked);
  const std::lock_guard<std::mutex> lock(guard);
  if (kept_for_file) kept_for_file->push_back(marked);
}

}  // namespace

void start(int rank, Output output) {
  rank_of_process = rank;
  output_of_process = output;
}

void keep_for_file() { kept_for_file.emplace(); }

void also_to_file(const std::string& path) {
  try {
    file_logger = make(std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
    for (const std::string& line : std::exchange(kept_for_file, std::nullopt).value_or(std::vector<std::string>{})) {
      file_logger->info(line);
    }
  } catch (const spdlog::spdlog_ex& e) {
    warn(path, ": the log cannot be written: ", e.what());
  }
}

std::vector<std::string> take_warnings() {
  const std::lock_guard<std::mutex> lock(guard);
  return std::exchange(held_warnings, {});
}

void info_line(const std::string& text) {
  if (rank_of_process == 0 && output_of_process != Output::kJson) put(text, output_of_process == Output::kResult);
}
void warn_line(const std::string& text) {
  if (output_of_process != Output::kJson) return put("warning: " + text, true);
  const std::lock_guard<std::mutex> lock(guard);
  held_warnings.push_back(text);
}
void error_line(const std::string& text) {
  for (const std::string& warning : take_warnings()) put("warning: " + warning, true);
  put("error: " + text, true);
}

}  // namespace sffn::log
