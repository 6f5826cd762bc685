#include "kernels/ops.h"
#include "support/catch.h"
#include "support/host_tensor.h"

#include <chrono>
#include <thread>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr double kNanoseconds = 1e6;  // in a millisecond

double host_now() {
  return static_cast<double>(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

}  // namespace

// Kills: a clock that counts from zero, or counts the time between its intervals; microseconds; a second interval that
// replaces the first.
TEST_CASE("a clock adds up the time between its starts and stops, and no other", "[ops][clock]") {
  Stream stream(cpu_runtime());
  HostTensor clock(DType::kF64, {2}, {0, 1000});
  const auto sleep = [](int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
  const double before = host_now();
  double outside = 0;
  for (int i = 0; i < 2; ++i) {
    ops::start_clock(stream, clock);
    sleep(4);
    ops::stop_clock(stream, clock);
    const double stopped = host_now();
    sleep(30);
    outside += host_now() - stopped;
  }
  const double all = host_now() - before, counted = clock.values()[1] - 1000;
  CHECK(counted >= 2 * 4 * kNanoseconds);
  CHECK(counted <= all - outside);
}
