// Events that a kernel counts by integer atomics, whose order does not show, added to a counter in double.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace sffn::cuda {

using EventCount = unsigned long long;  // a type of atomicAdd

template <class Count>  // a template, so that several files may have it
__global__ void add_events_kernel(double* counter, const Count* events) {
  counter[0] += static_cast<double>(*events);
}

inline void clear_events(Stream& stream, EventCount* events) {
  check(cudaMemsetAsync(events, 0, sizeof(EventCount), native(stream).stream), "clear_events");
}
inline void add_events(Stream& stream, double* counter, const EventCount* events) {
  launch(stream, add_events_kernel<EventCount>, {1, 1}, counter, events);
}

}  // namespace sffn::cuda
