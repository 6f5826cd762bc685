#pragma once
#include "support/catch.h"

#if SFFN_SIMT
#include "simt/executor.h"
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace sffn::test {

// run() returns bytes that must be the same on 1, 2 and 4 threads; of the SIMT executor, in three schedules.
template <class Run>
void check_same_on_any_threads(Run&& run) {
#if SFFN_SIMT
  const simt::Options before = simt::options();
  simt::options().schedule = simt::Schedule::kForward;
  const auto expected = run();
  for (const simt::Schedule schedule : {simt::Schedule::kReverse, simt::Schedule::kRandom}) {
    simt::options().schedule = schedule;
    CHECK(run() == expected);
  }
  simt::options() = before;
#elif defined(_OPENMP)
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto expected = run();
  for (int threads : {2, 4}) {
    omp_set_num_threads(threads);
    INFO(threads << " threads");
    CHECK(run() == expected);
  }
  omp_set_num_threads(before);
#else
  CHECK(run() == run());
#endif
}

}  // namespace sffn::test
