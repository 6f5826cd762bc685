// What the CUDA runtime says of driver, GPUs and kernels, put in words; nothing here computes.
#include "kernels/cuda/device.h"

#include "core/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/probe.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stream.h"

#include <cublasLt.h>

#include <iomanip>

namespace sffn {
namespace {

constexpr int kLeastCapability = 80;                     // 10 · major + minor: bf16 tensor cores, cp.async
constexpr size_t kLeastSharedBytes = size_t{116} << 10;  // of a block: 8.0 and 9.0 have them, 8.6, 8.9 and 12.0 do not
constexpr const char* kAlternative = "; \"backend\": \"cpu\" (--backend cpu) needs no GPU";

[[noreturn]] void refuse(const std::string& what) { throw UsageError("backend", cat("cuda: ", what, kAlternative)); }

// 12040: "12.4"
std::string version_text(int version) { return cat(version / 1000, ".", version % 1000 / 10); }

// 0 without a driver.
int driver_version() {
  int version = 0;
  cuda::check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  return version;
}

int runtime_version() {
  int version = 0;
  cuda::check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

int count_gpus() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  (void)cudaGetLastError();  // or the next check reports it
  const int driver = driver_version();
  if (error == cudaErrorNoDevice || driver == 0) return 0;
  if (error == cudaErrorInsufficientDriver) {
    refuse(cat("the NVIDIA driver supports CUDA ", version_text(driver), " and this build needs ",
               version_text(runtime_version()), ": update the driver, or build with an older toolkit"));
  }
  refuse(cat("the GPUs do not answer: ", cudaGetErrorString(error)));
}

cudaDeviceProp properties_of(int index) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return properties;
}

// The architecture to compile for: its own features too, where kernels use them.
std::string architecture(const cudaDeviceProp& properties) {
  return cat(properties.major, properties.minor, properties.major == cuda::kWarpgroupCapability ? "a" : "");
}

std::string gpu_name(int index, const cudaDeviceProp& properties) {
  return cat("GPU ", index, ", ", properties.name, " of compute capability ", properties.major, ".", properties.minor);
}

}  // namespace

std::vector<std::string> visible_gpus() {
  std::vector<std::string> gpus;
  const int count = count_gpus();
  for (int i = 0; i < count; ++i) {
    std::ostringstream id;
    id << std::hex << std::setfill('0');
    for (const char byte : properties_of(i).uuid.bytes) id << std::setw(2) << int{static_cast<unsigned char>(byte)};
    gpus.push_back(id.str());
  }
  return gpus;
}

void require_gpu(int index) {
  const int count = count_gpus();
  if (count == 0) {
    refuse(driver_version() == 0 ? "this machine has no NVIDIA driver"
                                 : "there is no GPU, or CUDA_VISIBLE_DEVICES hides it");
  }
  if (index < 0 || index >= count) refuse(cat("there is no GPU ", index, ", only ", count, " (0 to ", count - 1, ")"));
  const cudaDeviceProp properties = properties_of(index);
  if (10 * properties.major + properties.minor < kLeastCapability) {
    refuse(cat(gpu_name(index, properties), ", is too old: the kernels need ", kLeastCapability / 10, ".",
               kLeastCapability % 10, " or more"));
  }
  if (properties.sharedMemPerBlockOptin < kLeastSharedBytes) {
    refuse(cat(gpu_name(index, properties), ", has ", properties.sharedMemPerBlockOptin >> 10,
               " KiB of shared memory a block, and the kernels need ", kLeastSharedBytes >> 10,
               ": compute capability 8.0 or 9.0 is expected"));
  }
  const cudaError_t error = cudaSetDevice(index);  // makes the context: in another's exclusive use, no memory left
  if (error != cudaSuccess) refuse(cat(gpu_name(index, properties), ", cannot be used: ", cudaGetErrorString(error)));
}

bool require_kernels(Stream& stream) {
  if (!cuda::has_kernels()) {
    const int index = stream.device().index;
    const cudaDeviceProp properties = properties_of(index);
    refuse(cat("this binary has no kernels for ", gpu_name(index, properties),
               ": configure with -DCMAKE_CUDA_ARCHITECTURES=", architecture(properties)));
  }
  return cuda::run_probe(stream);
}

size_t free_gpu_bytes(int index) {
  size_t free = 0, total = 0;
  cuda::check(cudaSetDevice(index), "cudaSetDevice");
  cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

std::string describe_gpu(int index) {
  const cudaDeviceProp properties = properties_of(index);
  const size_t blas = cublasLtGetVersion();
  std::ostringstream text;
  text << properties.name << ", " << std::fixed << std::setprecision(1)
       << static_cast<double>(properties.totalGlobalMem) / (1 << 30) << " GiB; driver "
       << version_text(driver_version()) << ", runtime " << version_text(runtime_version()) << ", cuBLAS "
       << blas / 10000 << "." << blas % 10000 / 100 << "." << blas % 100;
  if (properties.major == cuda::kWarpgroupCapability && !cuda::multiplies_on_warpgroups(index)) {
    text << "; without warpgroup products, which -DCMAKE_CUDA_ARCHITECTURES=" << architecture(properties)
         << " compiles: slower";
  }
  return text.str();
}

}  // namespace sffn
