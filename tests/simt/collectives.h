// What tests may ask and choose of the NCCL between the executor's GPUs.
#pragma once

namespace simt {

struct NcclOptions {
  bool blocking = true;  // false: calls give ncclInProgress, as a non-blocking communicator's do
};
NcclOptions& nccl_options();

// Launches of the calling thread since it last found a stream's work ended by cudaStreamQuery.
int collectives_in_flight();

}  // namespace simt
