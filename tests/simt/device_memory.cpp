// Memory of the executor's device, which only kernels and copies reach, and page-locked memory of the host.
#include "cuda_runtime.h"
#include "simt/stream.h"
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

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
  std::map<char*, Allocation> live;         // by first byte
  std::map<const char*, size_t> host_live;  // page-locked, by first byte
  size_t used = 0;
  int open = 0;
};

Memory& memory() {
  static Memory* all = new Memory;  // outlives every static object that frees in its destructor
  return *all;
}

// Made before there are threads: ThreadSanitizer, which does not see this file, would take the first two to come for a
// race.
[[maybe_unused]] const Memory& made_early = memory();

size_t up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void protect(const Allocation& a, int access) { mprotect(a.pages, a.page_bytes, access); }

bool is_page_locked(const void* host) {
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  const auto* at = static_cast<const char*>(host);
  const auto after = memory().host_live.upper_bound(at);
  return after != memory().host_live.begin() && at < std::prev(after)->first + std::prev(after)->second;
}

// A copy from page-locked memory reads it when its turn comes; other memory is read at once, into a copy.
std::function<void()> to_device(void* to, const void* from, size_t bytes) {
  if (is_page_locked(from)) {
    return [=] {
      const DeviceMemoryAccess access;
      std::memcpy(to, from, bytes);
    };
  }
  const auto* first = static_cast<const std::byte*>(from);
  return [to, held = std::vector<std::byte>(first, first + bytes)] {
    const DeviceMemoryAccess access;
    std::memcpy(to, held.data(), held.size());
  };
}

}  // namespace

DeviceMemoryAccess::DeviceMemoryAccess() {
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  if (memory().open++ > 0) return;
  for (const auto& [data, a] : memory().live) protect(a, PROT_READ | PROT_WRITE);
}

DeviceMemoryAccess::~DeviceMemoryAccess() {
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  if (--memory().open > 0) return;
  for (const auto& [data, a] : memory().live) protect(a, PROT_NONE);
}

}  // namespace simt

using simt::memory;

// Data end where a page ends that faults, but for the slack of alignment, which is checked when it is freed.
cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (simt::is_capturing()) return cudaErrorStreamCaptureUnsupported;
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
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
  if (simt::is_capturing()) return cudaErrorStreamCaptureUnsupported;
  simt::drain_thread();  // a device waits for its work before it frees
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

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::malloc(std::max<size_t>(bytes, 1));
  std::memset(*data, 0xff, bytes);
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  memory().host_live[static_cast<const char*>(*data)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  simt::drain_thread();
  const std::lock_guard<std::recursive_mutex> lock(memory().lock);
  if (memory().host_live.erase(static_cast<const char*>(data)) == 0) return cudaErrorInvalidValue;
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  simt::enqueue(stream, [=] {
    const simt::DeviceMemoryAccess access;
    std::memset(data, value, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const void* host = kind == cudaMemcpyHostToDevice ? from : kind == cudaMemcpyDeviceToHost ? to : nullptr;
  if (simt::is_capturing() && host != nullptr && !simt::is_page_locked(host)) return cudaErrorStreamCaptureUnsupported;
  if (kind == cudaMemcpyHostToDevice) {
    simt::enqueue(stream, simt::to_device(to, from, bytes));
    return cudaSuccess;
  }
  if (kind == cudaMemcpyDeviceToHost) std::memset(to, 0xff, bytes);  // until it arrives
  simt::enqueue(stream, [=] {
    const simt::DeviceMemoryAccess access;
    std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
