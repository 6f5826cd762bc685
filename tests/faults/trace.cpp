#include "faults/trace.h"

#include "core/error.h"
#include "support/temp_folder.h"
#include "train/checkpoint/names.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <sstream>

namespace sffn::test {
namespace {

// "5</a/b>" -> "/a/b"
std::string path_of_descriptor(const std::string& argument) {
  const size_t open = argument.find('<'), close = argument.find('>', open);
  return open == std::string::npos || close == std::string::npos ? "" : argument.substr(open + 1, close - open - 1);
}

// The quoted strings of a call's arguments, escapes as they are.
std::vector<std::string> strings_in(const std::string& arguments) {
  std::vector<std::string> strings;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] != '"') continue;
    const size_t start = ++i;
    while (i < arguments.size() && arguments[i] != '"') i += arguments[i] == '\\' ? 2 : 1;
    strings.push_back(arguments.substr(start, i - start));
  }
  return strings;
}

// "1700000000.5 write(5</a>, "x", 1) = 1 <0.000012>"; nothing for other lines and failed calls.
std::optional<SystemCall> parse_line(const std::string& line) {
  const size_t space = line.find(' '), open = line.find('(', space), result = line.rfind(") = ");
  const size_t spent = line.rfind('<');
  if (open == std::string::npos || result == std::string::npos || spent == std::string::npos || spent < result)
    return {};
  if (line.compare(result + 4, 1, "-") == 0) return {};
  SystemCall call;
  call.start = std::atof(line.c_str());
  call.end = call.start + std::atof(line.c_str() + spent + 1);
  call.name = line.substr(space + 1, open - space - 1);
  const std::string arguments = line.substr(open + 1, result - open - 1);
  const std::vector<std::string> strings = strings_in(arguments);
  const bool is_by_path = arguments.starts_with('"');
  if (call.name.starts_with("rename") && strings.size() == 2) {
    call.path = strings[0];
    call.target = strings[1];
  } else if (call.name == "unlinkat" && !strings.empty() && !strings[0].starts_with('/')) {
    call.path = path_of_descriptor(arguments) + "/" + strings[0];
  } else if (is_by_path || call.name == "unlinkat") {
    call.path = strings.empty() ? "" : strings[0];
  } else {
    call.path = path_of_descriptor(arguments);
    if (!strings.empty()) call.text = strings[0];
  }
  return call;
}

using Calls = std::vector<SystemCall>;
using Test = std::function<bool(const SystemCall&)>;

// What one commit must obey; everything is seen from the rename that makes it.
class Commit {
 public:
  Commit(const Calls& calls, const SystemCall& rename, std::string run, OrderReport& report)
      : calls_(calls), rename_(rename), run_(std::move(run)), folder_(checkpoints_folder(run_)), report_(report) {}

  void check() {
    const std::string record = rename_.path + "/checksums.json";
    double others_synced = 0;
    for (const auto& [path, last_write] : files()) {
      const SystemCall* sync = sync_after(path, last_write);
      require(sync && sync->end <= rename_.start, path + " is not fsynced between its last byte and the rename");
      if (sync && path != record) others_synced = std::max(others_synced, sync->end);
    }
    const SystemCall* first_record_byte = first([&](const SystemCall& c) { return is_write(c) && c.path == record; });
    require(first_record_byte && first_record_byte->start >= others_synced,
            "the record is written before all files are fsynced");
    const SystemCall* record_sync = first_record_byte ? sync_after(record, first_record_byte->end) : nullptr;
    const SystemCall* folder_sync = record_sync ? sync_after(rename_.path, record_sync->end) : nullptr;
    require(folder_sync && folder_sync->end <= rename_.start,
            "the folder is not fsynced between the record and the rename");
    const SystemCall* parent_sync = sync_after(folder_, rename_.end);
    const std::string line = "saved step " + std::to_string(*step()) + "\\n";
    const SystemCall* told = first([&](const SystemCall& c) { return c.path == run_ + "/log.txt" && c.text == line; });
    require(told != nullptr, "the step is never acknowledged");
    require(parent_sync && told && parent_sync->end <= told->start,
            "the parent is not fsynced between rename and acknowledgement");
    check_nothing_old_goes(parent_sync ? parent_sync->end : rename_.end);
  }

  std::optional<int64_t> step() const {
    if (!rename_.path.ends_with(".tmp") || rename_.target + ".tmp" != rename_.path) return {};
    if (rename_.target.substr(0, folder_.size() + 1) != folder_ + "/") return {};
    return parse_step_name(rename_.target.substr(folder_.size() + 1));
  }

 private:
  static bool is_write(const SystemCall& c) { return c.name == "write" || c.name == "pwrite64" || c.name == "writev"; }
  void require(bool holds, const std::string& otherwise) {
    if (!holds) report_.violations.push_back(rename_.target + ": " + otherwise);
  }
  const SystemCall* first(const Test& test) const {
    const auto found = std::find_if(calls_.begin(), calls_.end(), test);
    return found == calls_.end() ? nullptr : &*found;
  }
  const SystemCall* sync_after(const std::string& path, double time) const {
    return first([&](const SystemCall& c) { return c.name == "fsync" && c.path == path && c.start >= time; });
  }
  // Files under the temporary folder, with the end of their last write.
  std::map<std::string, double> files() const {
    std::map<std::string, double> last;
    for (const SystemCall& c : calls_) {
      if (is_write(c) && c.path.starts_with(rename_.path + "/")) last[c.path] = std::max(last[c.path], c.end);
    }
    require_files(last);
    return last;
  }
  void require_files(const std::map<std::string, double>& files) const {
    if (files.size() < 5) report_.violations.push_back(rename_.target + ": fewer than five files were written");
  }
  // From the first moment of this save until it is durable, no committed step may be renamed or emptied.
  void check_nothing_old_goes(double durable) {
    const SystemCall* made =
        first([&](const SystemCall& c) { return c.name.starts_with("mkdir") && c.path == rename_.path; });
    require(made != nullptr, "its temporary folder was never made");
    for (const SystemCall& c : calls_) {
      if (!made || c.end <= made->start || c.start >= durable) continue;
      const bool destroys = c.name.starts_with("rename") || c.name.starts_with("unlink") || c.name == "rmdir";
      if (!destroys || !c.path.starts_with(folder_ + "/")) continue;
      const std::string inside = c.path.substr(folder_.size() + 1), name = inside.substr(0, inside.find('/'));
      require(!parse_step_name(name), c.path + " goes before the new step is durable");
    }
  }

  const Calls& calls_;
  const SystemCall& rename_;
  const std::string run_, folder_;
  OrderReport& report_;
};

}  // namespace

std::vector<SystemCall> read_traces(const std::vector<std::string>& files) {
  Calls calls;
  for (const std::string& file : files) {
    std::istringstream lines(read_text(file));
    for (std::string line; std::getline(lines, line);) {
      if (std::optional<SystemCall> call = parse_line(line)) calls.push_back(std::move(*call));
    }
  }
  std::sort(calls.begin(), calls.end(), [](const SystemCall& a, const SystemCall& b) { return a.end < b.end; });
  return calls;
}

OrderReport check_order(const std::vector<SystemCall>& calls, const std::string& run) {
  OrderReport report;
  for (const SystemCall& call : calls) {
    if (!call.name.starts_with("rename")) continue;
    Commit commit(calls, call, run, report);
    if (!commit.step()) continue;
    ++report.commits;
    commit.check();
  }
  return report;
}

}  // namespace sffn::test
