#pragma once
#include "core/error.h"

#include <string>

namespace sffn::test {

struct Caught {
  std::string what;
  ExitCode code = ExitCode::kDone;
  bool says(const std::string& part) const { return what.find(part) != std::string::npos; }
};

// The error that run() throws; an empty message and kDone when it throws none.
template <class Run>
Caught error_of(Run&& run) {
  try {
    run();
  } catch (const Error& e) {
    return {e.what(), e.code()};
  }
  return {};
}

}  // namespace sffn::test
