// The runtime API of the executor: memory that only kernels and copies reach, streams whose work is done at once, and
// copies to the host that arrive when the stream is synchronised, as late as CUDA may be.
#include "cuda_runtime.h"
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

struct CUstream_st {
  struct Arrival {
    void* to;
    std::vector<std::byte> bytes;
  };
  std::vector<Arrival> arrivals;
};

namespace simt {
namespace {

constexpr size_t kPage = 4096, kAlign = 256;
constexpr size_t kTotalBytes = size_t{8} << 30;
constexpr unsigned char kSlack = 0xa5;

struct Allocation {
  size_t bytes = 0;       // asked for
  char* pages = nullptr;  // between two that are never open
  size_t page_bytes = 0;
};

struct Memory {
  std::recursive_mutex lock;
  std::map<char*, Allocation> live;  // by first byte
  size_t used = 0;
  int open = 0;
};

Memory& memory() {
  static Memory* all = new Memory;  // outlives every static object that frees in its destructor
  return *all;
}

size_t up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void protect(const Allocation& a, int access) { mprotect(a.pages, a.page_bytes, access); }

}  // namespace

DeviceMemoryAccess::DeviceMemoryAccess() {
  memory().lock.lock();
  if (memory().open++ > 0) return;
  for (const auto& [data, a] : memory().live) protect(a, PROT_READ | PROT_WRITE);
}

DeviceMemoryAccess::~DeviceMemoryAccess() {
  if (--memory().open == 0) {
    for (const auto& [data, a] : memory().live) protect(a, PROT_NONE);
  }
  memory().lock.unlock();
}

}  // namespace simt

using simt::memory;

// Data end where a page ends that faults, but for the slack of alignment, which is checked when it is freed.
cudaError_t cudaMalloc(void** data, size_t bytes) {
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (memory().used + bytes > simt::kTotalBytes) return cudaErrorMemoryAllocation;
  const size_t room = simt::up(bytes, simt::kAlign), pages = simt::up(room, simt::kPage);
  void* region = mmap(nullptr, pages + 2 * simt::kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) return cudaErrorMemoryAllocation;
  simt::Allocation a{bytes, static_cast<char*>(region) + simt::kPage, pages};
  char* first = a.pages + (pages - room);
  simt::protect(a, PROT_READ | PROT_WRITE);
  std::memset(first, 0xff, bytes);  // NaN
  std::memset(first + bytes, simt::kSlack, room - bytes);
#if SIMT_ASAN
  __asan_poison_memory_region(a.pages, static_cast<size_t>(first - a.pages));
  __asan_poison_memory_region(first + bytes, room - bytes);
#endif
  if (memory().open == 0) simt::protect(a, PROT_NONE);
  memory().live[first] = a;
  memory().used += bytes;
  *data = first;
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  const auto found = memory().live.find(static_cast<char*>(data));
  if (found == memory().live.end()) return cudaErrorInvalidValue;
  const simt::Allocation a = found->second;
  simt::protect(a, PROT_READ | PROT_WRITE);
#if SIMT_ASAN
  __asan_unpoison_memory_region(a.pages, a.page_bytes);
#endif
  for (char* p = found->first + a.bytes; p < a.pages + a.page_bytes; ++p) {
    if (static_cast<unsigned char>(*p) == simt::kSlack) continue;
    std::fprintf(stderr, "simt: something was written behind the end of an allocation of %zu bytes\n", a.bytes);
    std::abort();
  }
  munmap(a.pages - simt::kPage, a.page_bytes + 2 * simt::kPage);
  memory().live.erase(found);
  memory().used -= a.bytes;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  *total = simt::kTotalBytes;
  *free = simt::kTotalBytes - memory().used;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  const simt::DeviceMemoryAccess access;
  if (bytes > 0) std::memset(data, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const simt::DeviceMemoryAccess access;
  if (kind == cudaMemcpyDeviceToHost && stream != nullptr) {
    const auto* bytes_of = static_cast<const std::byte*>(from);
    stream->arrivals.push_back({to, {bytes_of, bytes_of + bytes}});
    std::memset(to, 0xff, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) return cudaSuccess;
  for (const CUstream_st::Arrival& arrival : stream->arrivals) {
    std::memcpy(arrival.to, arrival.bytes.data(), arrival.bytes.size());
  }
  stream->arrivals.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
  }
  return "unknown error";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 2;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "SIMT executor", .l2CacheSize = 1 << 20};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // Few multiprocessors, so that persistent kernels go around their loops.
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : 9;
  return cudaSuccess;
}
