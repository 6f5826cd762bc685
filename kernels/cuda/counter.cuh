// Events that a kernel counts by integer atomics, whose order does not show, added to a counter in double.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace sffn::cuda {

using EventCount = unsigned long long;  // a type of atomicAdd

template <class Count>  // a template, so that several files may have it
__global__ void add_events_kernel(double* counter, const Count* events) {
  counter[0] += static_cast<double>(*events);
}

inline void clear_events(Stream& stream, EventCount* events) { clear_bytes(stream, events, sizeof(EventCount)); }
inline void add_events(Stream& stream, double* counter, const EventCount* events) {
  launch(stream, add_events_kernel<EventCount>, {1, 1}, Work{bytes_for<EventCount>(1) + bytes_for<double>(2)}, counter,
         events);
}

}  // namespace sffn::cuda
