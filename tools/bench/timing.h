#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace sffn {

// Median seconds of run(), after one call that warms caches and library primitives.
template <class Run>
double median_seconds(double at_least, Run&& run) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kMinRepeats = 5;
  run();
  std::vector<double> seconds;
  const auto begin = Clock::now();
  auto last = begin;
  while (seconds.size() < kMinRepeats || std::chrono::duration<double>(last - begin).count() < at_least) {
    run();
    const auto now = Clock::now();
    seconds.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

}  // namespace sffn
