// Streams of the executor's device: queues whose work runs when somebody waits for it, as late as CUDA may run it, so
// that a host which reads too early, or a stream that does not wait for another, gets NaN and not the result.
#pragma once
#include <functional>

struct CUstream_st;

namespace simt {

// The work of one kernel, copy or collective, in order behind what the stream was given before; becomes part of the
// graph while the stream is captured. The null stream works at once.
void enqueue(CUstream_st* stream, std::function<void()> work);

// Whether the calling thread captures, and so may neither wait nor allocate.
bool is_capturing();
// Everything that streams of the calling thread were given is done.
void drain_thread();

}  // namespace simt
