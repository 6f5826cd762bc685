// Other processes as users start them: what they print, how they end, within a time limit.
#pragma once
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace sffn::test {

struct ProcessResult {
  int code = -1;       // exit code, 128 + signal, or -1 when the limit ended it
  std::string output;  // stdout and stderr together
  double seconds = 0;
};

struct ProcessOptions {
  std::vector<std::string> environment;  // "NAME=value" on top of the caller's; "NAME" removes
  double limit_s = 60;                   // then TERM, and KILL 3 s later
  // Called with all output so far whenever there is more; may send signals to the process.
  std::function<void(const std::string& output, pid_t process)> on_output;
};

ProcessResult run_process(const std::vector<std::string>& command, const ProcessOptions& options = {});

// mpirun -np RANKS with the options that a small or shared machine and a root user need, before `command`.
std::vector<std::string> mpirun(int ranks, const std::vector<std::string>& command);
// A program built from tests/AREA/programs/NAME.cpp.
std::string test_program(const std::string& area, const std::string& name);

// Waits for a process that is not our child to be gone.
bool gone_within(pid_t process, double seconds);

}  // namespace sffn::test
