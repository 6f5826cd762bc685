// Memory, streams, events, graphs and profiles of one GPU, as core/runtime.h asks for them, through the CUDA runtime.
#include "kernels/cuda/runtime.h"

#include "core/error.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

// Headers alone; what is pushed goes nowhere unless a profiler watches.
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define SFFN_HAS_NVTX 1
#endif

namespace sffn {
namespace cuda {

namespace {

// Of the current device. UsageError where it has not so much.
void* allocate_on(int index, size_t bytes, const char* what) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // or the next check reports it
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw UsageError("memory", cat(Device::cuda(index).str(), " cannot give ", bytes, " bytes of ", what, free, " of ",
                                   total, " are free; a smaller train.micro_batch needs less, \"backend\": \"cpu\" ",
                                   "(--backend cpu) needs no GPU"));
  }
  check(error, "cudaMalloc");
  return data;
}

}  // namespace

CudaStream::CudaStream(int index, Urgency urgency, bool on_warpgroups) : device(index), warpgroups(on_warpgroups) {
  check(cudaSetDevice(index), "cudaSetDevice");
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index), "shared memory");
  int least = 0, most = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &most), "priorities");
  const int priority = urgency == Urgency::kHigh ? most : least;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority), "cudaStreamCreate");
}

CudaStream::~CudaStream() {
  (void)cudaStreamSynchronize(stream);
  for (void* workspace : workspaces_) (void)cudaFree(workspace);
  (void)cudaStreamDestroy(stream);
}

void* CudaStream::workspace(size_t bytes) {
  if (bytes > workspace_bytes_) {
    const size_t grown = std::max(bytes, 2 * workspace_bytes_);  // so that all together are at most twice the last
    workspaces_.push_back(allocate_on(device, grown, "work memory of kernels, which comes on top of `sffn plan`: "));
    workspace_bytes_ = grown;
  }
  return workspaces_.empty() ? nullptr : workspaces_.back();
}

namespace {

struct CudaEvent final : NativeEvent {
  CudaEvent() { check(cudaEventCreateWithFlags(&event, cudaEventDefault), "cudaEventCreate"); }
  ~CudaEvent() override { (void)cudaEventDestroy(event); }
  CudaEvent(const CudaEvent&) = delete;
  cudaEvent_t event = nullptr;
};

struct CudaGraph final : NativeGraph {
  explicit CudaGraph(cudaGraph_t graph) { check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate"); }
  ~CudaGraph() override { (void)cudaGraphExecDestroy(executable); }
  CudaGraph(const CudaGraph&) = delete;
  cudaGraphExec_t executable = nullptr;
};

class CudaRuntime final : public DeviceRuntime {
 public:
  CudaRuntime(int index, bool warpgroups) : index_(index), warpgroups_(warpgroups) {}
  bool multiplies_on_warpgroups() const { return warpgroups_; }
  cudaDeviceProp properties() const {
    cudaDeviceProp found{};
    check(cudaGetDeviceProperties(&found, index_), "cudaGetDeviceProperties");
    return found;
  }
  Device device() const override { return Device::cuda(index_); }
  std::string name() const override { return properties().name; }
  size_t cache_bytes() const override { return static_cast<size_t>(properties().l2CacheSize); }
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    check(cudaSetDevice(index_), "cudaSetDevice");
    void* data = allocate_on(index_, bytes, "what `sffn plan` lists: ");
    check(cudaMemsetAsync(data, 0, bytes, nullptr), "cudaMemset");
    check(cudaStreamSynchronize(nullptr), "cudaMemset");
    return data;
  }
  void release(void* data, size_t) override { (void)cudaFree(data); }
  std::unique_ptr<NativeStream> make_stream(Urgency urgency) override {
    return std::make_unique<CudaStream>(index_, urgency, warpgroups_);
  }
  void copy_to_device(NativeStream* stream, void* device, const void* host, size_t bytes) override {
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, of(stream)), "copy to the device");
  }
  void copy_to_host(NativeStream* stream, void* host, const void* device, size_t bytes) override {
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, of(stream)), "copy to the host");
  }
  void synchronize(NativeStream* stream) override {
    if (lookouts.empty()) return check(cudaStreamSynchronize(of(stream)), "the stream");
    wait_until([&] { return cudaStreamQuery(of(stream)); });
  }

  void* allocate_host(size_t bytes) override {
    void* data = nullptr;
    if (bytes == 0) return data;
    check(cudaMallocHost(&data, bytes), "page-locked memory");
    std::memset(data, 0, bytes);
    return data;
  }
  void release_host(void* data, size_t) override { (void)cudaFreeHost(data); }
  bool is_asynchronous() const override { return true; }
  std::unique_ptr<NativeEvent> make_event() override { return std::make_unique<CudaEvent>(); }
  void record(NativeStream* stream, NativeEvent& event) override {
    check(cudaEventRecord(of(event), of(stream)), "cudaEventRecord");
  }
  void hold(NativeStream* stream, const NativeEvent& event) override {
    check(cudaStreamWaitEvent(of(stream), of(event), 0), "cudaStreamWaitEvent");
  }
  void wait(const NativeEvent& event) override {
    if (lookouts.empty()) return check(cudaEventSynchronize(of(event)), "the stream");
    wait_until([&] { return cudaEventQuery(of(event)); });
  }
  double milliseconds(const NativeEvent& begin, const NativeEvent& end) override {
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, of(begin), of(end)), "cudaEventElapsedTime");
    return static_cast<double>(elapsed);
  }
  std::unique_ptr<NativeGraph> capture(NativeStream* stream, const std::function<void()>& work) override {
    check(cudaStreamBeginCapture(of(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      (void)cudaStreamEndCapture(of(stream), &graph);
      if (graph != nullptr) (void)cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(of(stream), &graph), "cudaStreamEndCapture");
    auto captured = std::make_unique<CudaGraph>(graph);
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return captured;
  }
  void launch(NativeStream* stream, NativeGraph& graph) override {
    check(cudaGraphLaunch(static_cast<CudaGraph&>(graph).executable, of(stream)), "cudaGraphLaunch");
  }

  std::vector<Lookout*> lookouts;

  void push_range([[maybe_unused]] const char* name, [[maybe_unused]] int64_t index) override {
#if SFFN_HAS_NVTX
    nvtxRangePushA(index < 0 ? name : cat(name, " ", index).c_str());
#endif
  }
  void pop_range() override {
#if SFFN_HAS_NVTX
    nvtxRangePop();
#endif
  }
  void start_profile(NativeStream* stream) override {
    static_cast<CudaStream*>(stream)->profile = std::make_unique<Profile>(of(stream));
  }
  std::vector<KernelTime> take_profile(NativeStream* stream) override {
    std::unique_ptr<Profile>& profile = static_cast<CudaStream*>(stream)->profile;
    if (!profile) return {};
    std::vector<KernelTime> rows = profile->rows();
    profile.reset();
    return rows;
  }

 private:
  template <class Query>
  void wait_until(Query&& query) {
    while (true) {
      const cudaError_t error = query();
      for (Lookout* lookout : lookouts) lookout->look();
      if (error != cudaErrorNotReady) return check(error, "the stream");
      (void)cudaGetLastError();  // or the next launch reports it
      std::this_thread::yield();
    }
  }

  static cudaEvent_t of(const NativeEvent& event) { return static_cast<const CudaEvent&>(event).event; }
  static cudaStream_t of(NativeStream* stream) { return static_cast<CudaStream*>(stream)->stream; }
  int index_;
  bool warpgroups_;
};

}  // namespace

void Lookout::watch(DeviceRuntime& gpu) {
  gpu_ = &gpu;
  static_cast<CudaRuntime&>(gpu).lookouts.push_back(this);
}
Lookout::~Lookout() {
  if (gpu_ != nullptr) std::erase(static_cast<CudaRuntime*>(gpu_)->lookouts, this);
}

}  // namespace cuda

DeviceRuntime& cuda_runtime(int device) {
  static std::mutex lock;
  static std::map<int, cuda::CudaRuntime> runtimes;
  const std::lock_guard<std::mutex> guard(lock);
  if (const auto open = runtimes.find(device); open != runtimes.end()) return open->second;
  require_gpu(device);
  cuda::CudaRuntime runtime(device, false);
  Stream stream(runtime);
  const bool warpgroups = require_kernels(stream) && runtime.properties().major == cuda::kWarpgroupCapability;
  return runtimes.try_emplace(device, device, warpgroups).first->second;
}

bool cuda::multiplies_on_warpgroups(int device) {
  return static_cast<CudaRuntime&>(cuda_runtime(device)).multiplies_on_warpgroups();
}

}  // namespace sffn
