#include "comm/conformance.h"

#include "comm/mpi.h"
#include "support/mpi_test.h"

// Kills: 32-bit counts (pieces), displacements by rank, freeing a communicator that is still in use.
void mpi_test(sffn::Communicator& world) {
  sffn::test::check_conformance(world);
  sffn::test::check_halves(world, 100000);  // more than MPI sends before it is asked for
  for (const size_t piece_bytes : {size_t{1}, size_t{7}, size_t{64}}) {
    sffn::test::check_conformance(*sffn::make_mpi_communicator(piece_bytes));
  }
}
