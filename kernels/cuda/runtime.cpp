#include "kernels/cuda/runtime.h"

#include "core/error.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"

#include <map>
#include <mutex>

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

class CudaRuntime final : public DeviceRuntime {
 public:
  explicit CudaRuntime(int index) : index_(index) {}
  Device device() const override { return Device::cuda(index_); }
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

 private:
  static cudaStream_t of(NativeStream* stream) { return static_cast<CudaStream*>(stream)->stream; }
  int index_;
};

}  // namespace
}  // namespace cuda

DeviceRuntime& cuda_runtime(int device) {
  static std::mutex lock;
  static std::map<int, cuda::CudaRuntime> runtimes;
  const std::lock_guard<std::mutex> guard(lock);
  if (const auto open = runtimes.find(device); open != runtimes.end()) return open->second;
  require_gpu(device);
  cuda::CudaRuntime runtime(device);
  Stream stream(runtime);
  require_kernels(stream);
  return runtimes.try_emplace(device, device).first->second;
}

}  // namespace sffn
