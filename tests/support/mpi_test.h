// A test that runs on every rank of a real mpirun: a source tests/AREA/mpi/NAME.cpp defines mpi_test, and the build
// makes the ctest tests "AREA:mpi NAME on 2 ranks" and "... 4 ranks" of it. A failure is an exception (SFFN_CHECK); it
// ends the job with exit code 1.
#pragma once
#include "comm/communicator.h"

void mpi_test(sffn::Communicator& world);
