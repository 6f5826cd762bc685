// Questions to the runtime about devices, and answers that tests choose.
#include "simt/devices.h"

#include "cublasLt.h"
#include "simt/stream.h"

#include <cstdio>
#include <cstdlib>

namespace simt {
namespace {

Devices from_environment() {
  const char* text = std::getenv("SFFN_SIMT_DEVICES");
  return devices_named(text == nullptr ? "4" : text);
}

thread_local int current = 0;

bool exists(int device) { return device >= 0 && device < devices().count; }

}  // namespace

Devices devices_named(const std::string& words) {
  Devices d;
  if (words == "none") {
    d.count = 0, d.count_error = cudaErrorNoDevice;
  } else if (words == "no_driver") {
    d.count = 0, d.count_error = cudaErrorInsufficientDriver, d.driver = 0;
  } else if (words == "old_driver") {
    d.count_error = cudaErrorInsufficientDriver, d.driver = 12040;
  } else if (words == "silent") {
    d.count_error = static_cast<cudaError_t>(999);
  } else if (words == "busy") {
    d.set_error = static_cast<cudaError_t>(46);
  } else if (words == "ampere") {
    d.name = "NVIDIA A100-SXM4-40GB", d.major = 8, d.shared_bytes = 163 << 10;
  } else if (words == "ada") {
    d.name = "NVIDIA L40S", d.major = 8, d.minor = 9, d.shared_bytes = 99 << 10;
  } else if (words == "volta") {
    d.name = "Tesla V100-SXM2-16GB", d.major = 7;
  } else if (words == "uncompiled") {
    d.name = "NVIDIA H200", d.major = 9, d.kernel_error = cudaErrorNoKernelImageForDevice;
  } else if (words == "foreign") {
    d.name = "NVIDIA B200", d.major = 10, d.kernel_error = cudaErrorNoKernelImageForDevice;
  } else {
    d.count = std::atoi(words.c_str());
  }
  return d;
}

Devices& devices() {
  static Devices all = from_environment();
  return all;
}

cudaError_t find_kernel() { return devices().kernel_error; }

}  // namespace simt

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (static_cast<int>(error)) {
    case 0:
      return "no error";
    case 1:
      return "invalid argument";
    case 2:
      return "out of memory";
    case 35:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case 46:
      return "CUDA-capable device(s) is/are busy or unavailable";
    case 100:
      return "no CUDA-capable device is detected";
    case 101:
      return "invalid device ordinal";
    case 209:
      return "no kernel image is available for execution on the device";
    case 600:
      return "device not ready";
    case 900:
      return "operation not permitted when stream is capturing";
    case 901:
      return "operation failed due to a previous error during capture";
    case 905:
      return "dependency created on uncaptured work in another stream";
    default:
      return "unknown error";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = simt::devices().count_error == cudaSuccess ? simt::devices().count : 0;
  return simt::devices().count_error;
}

cudaError_t cudaSetDevice(int device) {
  if (!simt::exists(device)) return cudaErrorInvalidDevice;
  if (simt::devices().set_error != cudaSuccess) return simt::devices().set_error;
  simt::current = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = simt::current;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!simt::exists(device)) return cudaErrorInvalidDevice;
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", simt::devices().name.c_str());
  properties->uuid.bytes[15] = static_cast<char>(0xa0 + device);
  properties->major = simt::devices().major, properties->minor = simt::devices().minor;
  properties->l2CacheSize = 1 << 20;
  properties->sharedMemPerBlockOptin = simt::devices().shared_bytes;
  size_t free = 0;
  return cudaMemGetInfo(&free, &properties->totalGlobalMem);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // few, so that persistent kernels go around their loops
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = simt::devices().major;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(simt::devices().shared_bytes);
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = simt::devices().driver;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = simt::devices().runtime;
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }

cudaError_t cudaDeviceSynchronize() {
  if (simt::is_capturing()) return cudaStreamSynchronize(nullptr);  // which says so
  simt::drain_thread();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = simt::is_capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

size_t cublasLtGetVersion() { return 130100; }
