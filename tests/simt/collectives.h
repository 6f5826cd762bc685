// What tests may ask and choose of the NCCL between the executor's GPUs.
#pragma once
#include <chrono>

namespace simt {

struct NcclOptions {
  std::chrono::seconds patience{60};  // of new communicators, before a rank that does not come is an error
  bool blocking = true;               // false: calls give ncclInProgress, as a non-blocking communicator's do
};
NcclOptions& nccl_options();

// Launches that the calling thread's streams have come to.
int collectives_run();

}  // namespace simt
