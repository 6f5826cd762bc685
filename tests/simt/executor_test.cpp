// The executor finds each seeded bug, and takes nothing right for wrong.
#include "simt/executor.h"

#include "core/buffer.h"
#include "core/stream.h"
#include "kernels/cuda/runtime.h"
#include "support/catch.h"

#include "simt/seeded.h"
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>

using namespace sffn;
using namespace sffn::test;

namespace {

enum class Outcome { kClean, kError, kNotANumber, kReport };

Outcome run(const Seeded& seeded) {
  const Buffer y(cuda_runtime(), 64 * sizeof(float));
  Stream stream(cuda_runtime());
  std::vector<float> values(64);
  cuda_runtime().copy_to_device(stream.native(), y.data(), values.data(), y.bytes());
  stream.synchronize();
  try {
    seeded.run(static_cast<float*>(y.data()));
  } catch (const simt::Error&) {
    return Outcome::kError;
  }
  cuda_runtime().copy_to_host(stream.native(), values.data(), y.data(), y.bytes());
  stream.synchronize();
  for (const float value : values) {
    if (std::isnan(value)) return Outcome::kNotANumber;
  }
  return Outcome::kClean;
}

// In a process of its own, which a sanitizer may end.
Outcome run_apart(const Seeded& seeded) {
  const pid_t child = fork();
  if (child == 0) {
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDERR_FILENO);
    for (const int number : {SIGSEGV, SIGABRT, SIGBUS}) signal(number, SIG_DFL);
    alarm(20);  // an executor that hangs is one that finds nothing
    std::exit(100 + static_cast<int>(run(seeded)));
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return code >= 100 && code < 103 ? static_cast<Outcome>(code - 100) : Outcome::kReport;
}

Outcome expected(Finder finder) {
  switch (finder) {
    case Finder::kPlain:
      return Outcome::kError;
    case Finder::kValue:
      return Outcome::kNotANumber;
    case Finder::kAddress:
      return SIMT_ASAN ? Outcome::kReport : Outcome::kClean;
    case Finder::kThread:
      return SIMT_TSAN ? Outcome::kReport : Outcome::kClean;
    case Finder::kNone:
      break;
  }
  return Outcome::kClean;
}

}  // namespace

// Kills: an executor that misses a bug that its build can see, or takes a right kernel for a wrong one.
TEST_CASE("every seeded bug is found by the build that looks for it, in every schedule", "[simt]") {
  for (const simt::Schedule schedule : {simt::Schedule::kForward, simt::Schedule::kReverse, simt::Schedule::kRandom}) {
    simt::options().schedule = schedule;
    for (const Seeded& seeded : seeded_kernels()) {
      INFO(seeded.name << ", schedule " << static_cast<int>(schedule));
      const Outcome outcome = run_apart(seeded);
      // Bugs that only a sanitizer sees for certain may show in other builds as well.
      const bool by_chance = seeded.finder == Finder::kAddress || seeded.finder == Finder::kThread;
      if (by_chance && expected(seeded.finder) == Outcome::kClean) continue;
      CHECK(outcome == expected(seeded.finder));
    }
  }
  simt::options().schedule = simt::Schedule::kForward;
}

// Kills: a device pointer that the host can read, so that a program which does works here and dies on a GPU.
TEST_CASE("the host cannot reach device memory", "[simt]") {
  const pid_t child = fork();
  if (child == 0) {
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    signal(SIGSEGV, SIG_DFL);
    const Buffer y(cuda_runtime(), 64);
    static_cast<volatile char*>(y.data())[0] = 1;
    std::exit(100);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_FALSE((WIFEXITED(status) && WEXITSTATUS(status) == 100));
}

// Kills: a copy to the host that is there before the stream was synchronised.
TEST_CASE("a copy to the host arrives when the stream is synchronised", "[simt]") {
  const Buffer y(cuda_runtime(), sizeof(int));
  Stream stream(cuda_runtime());
  const int given = 7;
  int back = 0;
  cuda_runtime().copy_to_device(stream.native(), y.data(), &given, sizeof given);
  cuda_runtime().copy_to_host(stream.native(), &back, y.data(), sizeof back);
  CHECK(back != 7);
  stream.synchronize();
  CHECK(back == 7);
}
