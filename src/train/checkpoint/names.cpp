#include "train/checkpoint/names.h"

#include "core/file.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace sffn {

std::string checkpoints_folder(const std::string& run) { return run + "/checkpoints"; }

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::optional<int64_t> parse_step_name(std::string_view name, std::string_view suffix) {
  if (!name.starts_with("step-") || !name.ends_with(suffix)) return {};
  const std::string_view digits = name.substr(5, name.size() - 5 - suffix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size()) return {};
  if (step < 0 || step_name(step) != name.substr(0, name.size() - suffix.size())) return {};
  return step;
}

std::vector<int64_t> committed_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  for (const std::string& name : list_directory(folder)) {
    if (const std::optional<int64_t> step = parse_step_name(name)) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

bool is_real_folder(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

}  // namespace sffn
