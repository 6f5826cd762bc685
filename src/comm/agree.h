// Agreement of ranks by short texts: what each found, what went wrong where. Collective; host memory.
#pragma once
#include "comm/communicator.h"

#include <string>
#include <vector>

namespace sffn {

// Every rank's text, in rank order, on every rank.
std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine);
// The root's text on every rank.
std::string broadcast_text(Communicator& comm, const std::string& text, int root = 0);

// Thrown on every rank alike: rank 0 reports it, and all leave in order. Any other exception belongs to one rank alone.
struct AgreedError : Error {
  AgreedError(ExitCode code, const std::string& what) : Error(code, "", what) {}
};

// What went wrong on this rank, if anything: an Error's exit code and words. It travels, so that all ranks throw alike.
struct Failure {
  ExitCode code = ExitCode::kDone;
  std::string what;

  explicit operator bool() const { return code != ExitCode::kDone; }
  [[noreturn]] void raise() const { throw AgreedError(code, what); }
};

// The failure of the lowest rank that has one, its words marked "rank R: " unless R = 0; none when every rank
// succeeded.
Failure first_failure(Communicator& comm, const Failure& mine);

// Runs `work`; an Error becomes a Failure. Other exceptions are bugs and pass through.
template <class Work>
Failure attempt(Work&& work) {
  try {
    work();
  } catch (const Error& e) {
    return {e.code(), e.what()};
  }
  return {};
}
// Every rank runs `work`, which enters no collective; if it throws an Error on any, all ranks throw AgreedError.
template <class Work>
void together(Communicator& comm, Work&& work) {
  if (const Failure failure = first_failure(comm, attempt(work))) failure.raise();
}

}  // namespace sffn
