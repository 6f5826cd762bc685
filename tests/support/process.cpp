#include "support/process.h"

#include "support/paths.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace sffn::test {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

[[noreturn]] void become(const std::vector<std::string>& command, const ProcessOptions& options, int output) {
  setpgid(0, 0);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, 0);
  dup2(output, 1);
  dup2(output, 2);
  for (const std::string& setting : options.environment) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      unsetenv(setting.c_str());
    } else {
      setenv(setting.substr(0, equals).c_str(), setting.c_str() + equals + 1, 1);
    }
  }
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  _exit(127);
}

// Appends what the process prints until it closes its output; ends it at the limit. True when it was ended.
bool read_output(ProcessResult& result, const ProcessOptions& options, pid_t process, int input,
                 Clock::time_point start) {
  int ended = 0;  // signals sent
  while (true) {
    if (seconds_since(start) > options.limit_s + 3 * ended) {
      kill(ended == 0 ? process : -process, ended == 0 ? SIGTERM : SIGKILL);
      if (++ended > 2) return true;
    }
    pollfd ready = {input, POLLIN, 0};
    if (poll(&ready, 1, 50) <= 0) continue;
    char text[4096];
    const ssize_t bytes = read(input, text, sizeof(text));
    if (bytes == 0) return ended > 0;
    if (bytes < 0 && errno != EINTR) throw std::runtime_error(std::string("read: ") + std::strerror(errno));
    if (bytes > 0) result.output.append(text, static_cast<size_t>(bytes));
    if (options.on_output) options.on_output(result.output, process);
  }
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& command, const ProcessOptions& options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  const Clock::time_point start = Clock::now();
  const pid_t process = fork();
  if (process < 0) throw std::runtime_error("fork");
  if (process == 0) become(command, options, ends[1]);
  close(ends[1]);
  ProcessResult result;
  const bool ended = read_output(result, options, process, ends[0], start);
  close(ends[0]);
  int status = 0;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  result.seconds = seconds_since(start);
  result.code = ended ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::vector<std::string> mpirun(int ranks, const std::vector<std::string>& command) {
  std::vector<std::string> all = {"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                                  "-np",    std::to_string(ranks)};
#ifdef __SANITIZE_ADDRESS__
  all.insert(all.end(), {"-x", "ASAN_OPTIONS=detect_leaks=0"});  // Open MPI frees little at MPI_Finalize
#elif defined(__SANITIZE_THREAD__)
  // Open MPI's TCP locks have no fixed order; the watchdog's thread lives when a failed rank leaves.
  all.insert(all.end(), {"-x", "TSAN_OPTIONS=detect_deadlocks=0:report_thread_leaks=0"});
#endif
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

std::string test_program(const std::string& area, const std::string& name) {
  return std::string(SFFN_TEST_PROGRAMS) + "/program_" + area + "_" + name;
}

bool gone_within(pid_t process, double seconds) {
  const Clock::time_point start = Clock::now();
  while (kill(process, 0) == 0) {
    if (seconds_since(start) > seconds) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

}  // namespace sffn::test
