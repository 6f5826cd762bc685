// System calls of a traced run, and the order they must have for a crash of the machine to lose nothing: no kill can
// show a missing fsync, because the page cache outlives the process.
#pragma once
#include <string>
#include <vector>

namespace sffn::test {

struct SystemCall {
  double start = 0, end = 0;  // seconds
  std::string name;           // "write", "fsync", "rename", ...
  std::string path;           // of the descriptor or first path argument
  std::string target;         // the second path of a rename
  std::string text;           // what the first bytes of a write were, escaped
};

// Reads FILES as written by `strace -ff -ttt -T -y`, one a thread, and merges them by the calls' ends. Calls that
// failed are left out.
std::vector<SystemCall> read_traces(const std::vector<std::string>& files);

struct OrderReport {
  int commits = 0;
  std::vector<std::string> violations;
};

// Judges every rename of a step into its place inside `run`.
OrderReport check_order(const std::vector<SystemCall>& calls, const std::string& run);

}  // namespace sffn::test
