// Ranks that own a GPU each. The library's own header stays in nccl.cpp.
#pragma once
#include "comm/communicator.h"

#include <memory>
#include <string>

namespace sffn {

// Tensors on the runtime's GPU go through NCCL on the caller's stream; tensors and values of the host through `host`,
// which this one owns, after the work that it gave to NCCL has ended: MPI beside NCCL in flight can deadlock. One rank
// needs no NCCL. Collective over host; its ranks must have different GPUs, or different NCCL_HOSTID.
// A failed transfer is a RunError of the next call; the communicator is then aborted and of no further use.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, DeviceRuntime& runtime);

std::string nccl_version();  // of the library: "2.28.9"

}  // namespace sffn
