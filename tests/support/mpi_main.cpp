#include "comm/mpi.h"
#include "support/mpi_test.h"

#include <cstdio>

int main() {
  sffn::mpi_start();
  {
    const auto world = sffn::make_mpi_communicator();
    try {
      mpi_test(*world);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "rank %d: %s\n", world->rank(), e.what());
      world->abort(1);
    }
  }
  sffn::mpi_finish();
}
