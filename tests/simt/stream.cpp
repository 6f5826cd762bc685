// Streams, events and graphs of the executor (stream.h). A stream belongs to the thread that made it, which stands for
// one process with one device.
#include "simt/stream.h"

#include "cuda_runtime.h"
#include "simt/executor.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <vector>

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

struct CUstream_st {
  std::deque<std::function<void()>> work;
  uint64_t given = 0, done = 0;
  CUgraph_st* captured_into = nullptr;
};

struct CUevent_st {
  CUstream_st* stream = nullptr;        // that recorded it; null: never recorded
  uint64_t position = 0;                // work of the stream before it
  CUgraph_st* captured_into = nullptr;  // recorded while the stream was captured
  std::shared_ptr<double> milliseconds = std::make_shared<double>(0);
};

namespace simt {
namespace {

struct ThreadStreams {
  std::vector<CUstream_st*> live;
  std::unique_ptr<CUgraph_st> graph;  // being captured
  CUstream_st* origin = nullptr;      // where the capture began
  bool broken = false;                // by a call that is not possible in it
};
ThreadStreams& mine() {
  static thread_local ThreadStreams streams;
  return streams;
}

void drain(CUstream_st& stream, uint64_t position) {
  const DeviceMemoryAccess access;  // once, and not for every launch
  while (stream.done < position && !stream.work.empty()) {
    const std::function<void()> work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    work();
  }
}

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

cudaError_t refuse_in_capture() {
  if (!is_capturing()) return cudaSuccess;
  mine().broken = true;
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace

void enqueue(CUstream_st* stream, std::function<void()> work) {
  if (stream == nullptr) return work();
  if (stream->captured_into != nullptr) {
    stream->captured_into->work.push_back(std::move(work));
    return;
  }
  stream->work.push_back(std::move(work));
  ++stream->given;
}

bool is_capturing() { return mine().graph != nullptr; }

void drain_thread() {
  for (CUstream_st* stream : mine().live) drain(*stream, stream->given);
}

}  // namespace simt

using simt::mine;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  mine().live.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* most) {
  *least = 0;
  *most = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t refused = simt::refuse_in_capture(); refused != cudaSuccess) return refused;
  if (stream != nullptr) simt::drain(*stream, stream->given);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  simt::drain(*stream, stream->given);
  std::erase(mine().live, stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->captured_into = stream->captured_into;
  simt::enqueue(stream, [time = event->milliseconds] { *time = simt::now(); });
  event->stream = stream;
  event->position = stream->given;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t refused = simt::refuse_in_capture(); refused != cudaSuccess) return refused;
  if (event->stream != nullptr) simt::drain(*event->stream, event->position);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  for (const cudaEvent_t event : {begin, end}) {
    if (event->stream == nullptr || event->captured_into != nullptr) return cudaErrorInvalidValue;
    if (event->stream->done < event->position) return cudaErrorNotReady;
  }
  *milliseconds = static_cast<float>(*end->milliseconds - *begin->milliseconds);
  return cudaSuccess;
}

// A stream that waits for one that is captured becomes part of the capture.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->captured_into != nullptr) {
    if (event->captured_into != mine().graph.get()) return cudaErrorInvalidValue;  // of a capture that has ended
    stream->captured_into = event->captured_into;
    return cudaSuccess;
  }
  if (stream->captured_into != nullptr) return cudaErrorStreamCaptureIsolation;
  CUstream_st* other = event->stream;
  if (other == nullptr || other == stream) return cudaSuccess;
  simt::enqueue(stream, [other, position = event->position] { simt::drain(*other, position); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (simt::is_capturing()) return cudaErrorInvalidValue;
  mine().graph = std::make_unique<CUgraph_st>();
  mine().origin = stream;
  mine().broken = false;
  stream->captured_into = mine().graph.get();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!simt::is_capturing() || mine().origin != stream) return cudaErrorInvalidValue;
  for (CUstream_st* live : mine().live) {
    if (live->captured_into == mine().graph.get()) live->captured_into = nullptr;
  }
  std::unique_ptr<CUgraph_st> made = std::move(mine().graph);
  if (mine().broken) return cudaErrorStreamCaptureInvalidated;
  *graph = made.release();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const std::function<void()>& work : executable->work) simt::enqueue(stream, work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
