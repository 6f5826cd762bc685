#pragma once
#include "support/catch.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace sffn::test {

// run() returns bytes that must be the same on 1, 2 and 4 threads.
template <class Run>
void check_same_on_any_threads(Run&& run) {
#ifdef _OPENMP
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
