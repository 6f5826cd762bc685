// Ranks over MPI. The library's own header stays in mpi.cpp.
#pragma once
#include "comm/communicator.h"

#include <memory>
#include <string>

namespace sffn {

// Larger transfers go in pieces of this many bytes: MPI counts are 32-bit.
inline constexpr size_t kMpiPieceBytes = size_t{1} << 30;

// Collective over all processes that mpirun or srun started. Throws RunError when MPI cannot start.
void mpi_start();
// Collective; after it no communicator may be used or destroyed.
void mpi_finish();
std::string mpi_version();  // of the library, one line

// All ranks of the job, after mpi_start.
std::unique_ptr<Communicator> make_mpi_communicator(size_t piece_bytes = kMpiPieceBytes);

// Memory that all ranks of this host share, for what must be seen of a rank that is stuck: zero when new. Making it and
// destroying it are collective over the host's ranks.
class HostMemory {
 public:
  virtual ~HostMemory() = default;
  virtual void* data() const = 0;
};

// The ranks of the world that run on this host, in order of world rank, and memory they share.
struct MpiHost {
  std::unique_ptr<Communicator> ranks;
  std::unique_ptr<HostMemory> memory;
};
MpiHost make_mpi_host(size_t shared_bytes);

}  // namespace sffn
