// Kernels with one bug each, and right ones that look like them.
#pragma once
#include <functional>
#include <string>
#include <vector>

namespace sffn::test {

// Where the bug shows. kPlain: as an Error of the executor in every build. kAddress, kThread: as a report of that
// sanitizer, which ends the process. kValue: as NaN in the result. kNone: nothing is wrong.
enum class Finder { kPlain, kAddress, kThread, kValue, kNone };

struct Seeded {
  std::string name;
  Finder finder;
  std::function<void(float* y)> run;  // y [64]: device memory
};
const std::vector<Seeded>& seeded_kernels();

}  // namespace sffn::test
