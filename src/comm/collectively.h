// Errors that all ranks know of together: no rank is left waiting in a collective that another never enters.
#pragma once
#include "comm/communicator.h"
#include "core/error.h"

#include <functional>

namespace sffn {

// Thrown on every rank with the message of the lowest rank that failed; rank 0 reports it, and all leave in order.
struct AgreedError : Error {
  AgreedError(ExitCode code, const std::string& message) : Error(code, "", message) {}
};

// Runs `body`, which must not use `comm`, on every rank; if it threw an Error anywhere, throws AgreedError everywhere.
// Where only some ranks failed the message names the first of them. Collective.
void collectively(Communicator& comm, const std::function<void()>& body);

}  // namespace sffn
