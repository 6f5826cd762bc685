// The names inside RUN/checkpoints. Nothing else there is ever touched.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

constexpr const char* kLatestName = "latest";

std::string checkpoints_folder(const std::string& run);
std::string step_name(int64_t step);  // step-00000100; more digits when needed
// The step of "step-N" + suffix (".tmp", ".deleting", ".damaged" or none), written exactly as step_name does.
std::optional<int64_t> parse_step_name(std::string_view name, std::string_view suffix = {});
std::vector<int64_t> committed_steps(const std::string& folder);  // newest first
bool is_real_folder(const std::string& path);                     // a folder, not a link to one

}  // namespace sffn
