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
// Collective; after it no communicator may be used.
void mpi_finish();
std::string mpi_version();  // of the library, one line

// All ranks of the job, after mpi_start.
std::unique_ptr<Communicator> make_mpi_communicator(size_t piece_bytes = kMpiPieceBytes);

// The ranks of the job that run on this host, in order of their rank in the job.
std::unique_ptr<Communicator> make_mpi_host_communicator();

}  // namespace sffn
