#include "config/config.h"
#include "config/reader.h"
#include "core/file.h"

#include <charconv>
#include <filesystem>

namespace sffn {
namespace {

constexpr size_t kLargestConfig = size_t{1} << 20;
constexpr size_t kDeepestOverride = 16;

std::vector<std::string> split_path(std::string_view path, const std::string& place) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    if (end == begin) throw UsageError(place, "has an empty part in its path; path.to.key=value is expected");
    parts.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  if (parts.size() > kDeepestOverride) {
    throw UsageError(place, cat("has a path of ", parts.size(), " parts; at most ", kDeepestOverride, " are expected"));
  }
  return parts;
}

// The place of `part` in `json`, made if it is not there yet: a list for the index 0 of nothing, else an object.
Json& descend(Json& json, const std::string& part, const std::string& place) {
  if (json.is_null() && part == "0") json = Json::array();
  if (json.is_null() || json.is_object()) return json[part];
  if (!json.is_array()) {
    throw UsageError(place, cat("\"", printable(part), "\" would lie in ", printable(json.dump()), " (",
                                json.type_name(), "); only objects and lists have members"));
  }
  Json::Array& list = json.as_array();
  size_t index = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
  if (error != std::errc() || end != part.data() + part.size() || index > list.size()) {
    throw UsageError(place, cat("\"", printable(part), "\" names no item of a list of ", list.size(),
                                "; an index in [0, ", list.size(), "] is expected"));
  }
  if (index == list.size()) list.emplace_back();
  return list[index];
}

// An integer, number, list or whatever JSON the text is; any other text stands for itself.
Json value_of(std::string_view text) {
  try {
    return parse_json(text, "--set", ExitCode::kUsage, {.bytes = kLargestConfig, .depth = 32});
  } catch (const Error&) {
    return Json(text);
  }
}

std::string file_of(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return path;
  const std::string inside = (std::filesystem::path(path) / "config.json").string();
  if (!exists(inside)) {
    throw UsageError(path,
                     "is a folder without config.json; a configuration file, or the folder of a run or "
                     "checkpoint, is expected");
  }
  return inside;
}

}  // namespace

void apply_override(Json& json, const std::string& argument) {
  const std::string place = cat("--set ", printable(argument));
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UsageError(place, "is malformed; path.to.key=value is expected");
  Json* target = &json;
  for (const std::string& part : split_path(std::string_view(argument).substr(0, equals), place)) {
    target = &descend(*target, part, place);
  }
  *target = value_of(std::string_view(argument).substr(equals + 1));
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  const std::string file = file_of(path);
  Json json = parse_json(read_file(file, kLargestConfig, ExitCode::kUsage), file, ExitCode::kUsage);
  for (const std::string& argument : overrides) apply_override(json, argument);
  if (json.is_object() && json.find("name") == nullptr) json["name"] = std::filesystem::path(file).stem().string();
  return parse_config(json, overrides.empty() ? file : file + " with --set");
}

}  // namespace sffn
