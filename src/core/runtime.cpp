#include "core/runtime.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

#include "core/error.h"

namespace sffn {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t whole_pages(size_t bytes) {
  const size_t page = bytes >= kHugePage ? kHugePage : 4096;
  return (bytes + page - 1) / page * page;
}

void* map(size_t bytes, int protection) {
  void* data = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw RunError("memory", cat("cannot allocate ", bytes, " bytes: ", std::strerror(errno)));
  return data;
}

class CpuRuntime final : public DeviceRuntime {
 public:
  Device device() const override { return Device::cpu(); }
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    void* data = map(whole_pages(bytes), PROT_READ | PROT_WRITE);
    // Best effort: fewer page faults and TLB misses; correctness does not depend on it.
    if (bytes >= kHugePage) (void)madvise(data, whole_pages(bytes), MADV_HUGEPAGE);
    return data;
  }
  void release(void* data, size_t bytes) override {
    if (data != nullptr) munmap(data, whole_pages(bytes));
  }
  std::unique_ptr<NativeStream> make_stream() override { return nullptr; }
  void copy_to_device(NativeStream*, void* device, const void* host, size_t bytes) override {
    if (bytes) std::memcpy(device, host, bytes);
  }
  void copy_to_host(NativeStream*, void* host, const void* device, size_t bytes) override {
    if (bytes) std::memcpy(host, device, bytes);
  }
  void synchronize(NativeStream*) override {}
};

// Address space that must never be touched: a kernel that runs on it by mistake dies at once.
class MetaRuntime final : public DeviceRuntime {
 public:
  Device device() const override { return Device::meta(); }
  void* allocate(size_t bytes) override { return bytes == 0 ? nullptr : map(whole_pages(bytes), PROT_NONE); }
  void release(void* data, size_t bytes) override {
    if (data != nullptr) munmap(data, whole_pages(bytes));
  }
  std::unique_ptr<NativeStream> make_stream() override { return nullptr; }
  void copy_to_device(NativeStream*, void*, const void*, size_t) override {}
  void copy_to_host(NativeStream*, void*, const void*, size_t) override {
    throw RunError("meta device", "it holds no values; the caller must not read results on it");
  }
  void synchronize(NativeStream*) override {}
};

}  // namespace

DeviceRuntime& cpu_runtime() {
  static CpuRuntime runtime;
  return runtime;
}

DeviceRuntime& meta_runtime() {
  static MetaRuntime runtime;
  return runtime;
}

}  // namespace sffn
