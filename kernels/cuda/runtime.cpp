#include "kernels/cuda/runtime.h"

#include "core/error.h"
#include "kernels/cuda/launch.cuh"

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

// Headers alone; what is pushed goes nowhere unless a profiler watches.
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define SFFN_HAS_NVTX 1
#endif

namespace sffn {
namespace cuda {

CudaStream::CudaStream(int index) : device(index) {
  check(cudaSetDevice(index), "cudaSetDevice");
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
}

CudaStream::~CudaStream() {
  (void)cudaStreamSynchronize(stream);
  (void)cudaFree(workspace_);
  (void)cudaStreamDestroy(stream);
}

void* CudaStream::workspace(size_t bytes) {
  if (bytes > workspace_bytes_) {
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    check(cudaFree(workspace_), "cudaFree");
    workspace_ = nullptr;
    check(cudaMalloc(&workspace_, bytes), "workspace");
    workspace_bytes_ = bytes;
  }
  return workspace_;
}

namespace {

class CudaMarks final : public StreamMarks {
 public:
  explicit CudaMarks(cudaStream_t stream) : stream_(stream) {}
  ~CudaMarks() override {
    for (const cudaEvent_t event : events_) (void)cudaEventDestroy(event);
  }
  CudaMarks(const CudaMarks&) = delete;

  void mark() override {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    events_.push_back(event);
    check(cudaEventRecord(event, stream_), "cudaEventRecord");
  }
  std::vector<double> seconds() override {
    std::vector<double> between;
    if (!events_.empty()) check(cudaEventSynchronize(events_.back()), "cudaEventSynchronize");
    for (size_t i = 1; i < events_.size(); ++i) {
      float ms = 0;
      check(cudaEventElapsedTime(&ms, events_[i - 1], events_[i]), "cudaEventElapsedTime");
      between.push_back(1e-3 * static_cast<double>(ms));
    }
    return between;
  }

 private:
  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;
};

class CudaRuntime final : public DeviceRuntime {
 public:
  explicit CudaRuntime(int index) : index_(index) {}
  Device device() const override { return Device::cuda(index_); }
  std::string name() const override { return properties().name; }
  size_t cache_bytes() const override { return static_cast<size_t>(properties().l2CacheSize); }
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    check(cudaSetDevice(index_), "cudaSetDevice");
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) != cudaSuccess) {
      (void)cudaGetLastError();
      size_t free = 0, total = 0;
      (void)cudaMemGetInfo(&free, &total);
      throw RunError(device().str(), cat("cannot allocate ", bytes, " bytes: ", free, " of ", total, " are free"));
    }
    check(cudaMemsetAsync(data, 0, bytes, nullptr), "cudaMemset");
    check(cudaStreamSynchronize(nullptr), "cudaMemset");
    return data;
  }
  void release(void* data, size_t) override { (void)cudaFree(data); }
  std::unique_ptr<NativeStream> make_stream() override { return std::make_unique<CudaStream>(index_); }
  void copy_to_device(NativeStream* stream, void* device, const void* host, size_t bytes) override {
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, of(stream)), "copy to the device");
  }
  void copy_to_host(NativeStream* stream, void* host, const void* device, size_t bytes) override {
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, of(stream)), "copy to the host");
  }
  void synchronize(NativeStream* stream) override { check(cudaStreamSynchronize(of(stream)), "the stream"); }

  std::unique_ptr<StreamMarks> make_marks(NativeStream* stream) override {
    return std::make_unique<CudaMarks>(of(stream));
  }
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
  cudaDeviceProp properties() const {
    cudaDeviceProp found{};
    check(cudaGetDeviceProperties(&found, index_), "cudaGetDeviceProperties");
    return found;
  }
  static cudaStream_t of(NativeStream* stream) { return static_cast<CudaStream*>(stream)->stream; }
  int index_;
};

int device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    throw UsageError("backend", cat("cuda: ", error == cudaSuccess ? "there is no GPU" : cudaGetErrorString(error),
                                    "; \"backend\": \"cpu\" runs without one"));
  }
  return count;
}

}  // namespace
}  // namespace cuda

DeviceRuntime& cuda_runtime(int device) {
  static std::mutex lock;
  static std::map<int, cuda::CudaRuntime> runtimes;
  const std::lock_guard<std::mutex> guard(lock);
  const int count = cuda::device_count();
  if (device < 0 || device >= count) throw UsageError("backend", cat("cuda: there is no GPU ", device, " of ", count));
  return runtimes.try_emplace(device, device).first->second;
}

}  // namespace sffn
