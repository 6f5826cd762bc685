// Threads inside a rank. Work is cut by size, never by the number of threads, so results do not depend on it.
#pragma once
#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace sffn::cpu {

// body(first, last) for every chunk [first, last) of `grain` items of [0, count); chunks run on the rank's threads in
// any order. body must not throw and must write disjoint memory per chunk.
template <class Body>
void parallel_chunks(int64_t count, int64_t grain, Body&& body) {
  const int64_t chunks = (count + grain - 1) / grain;
  if (chunks == 1) {
    body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    body(chunk * grain, std::min(count, (chunk + 1) * grain));
  }
}

}  // namespace sffn::cpu
