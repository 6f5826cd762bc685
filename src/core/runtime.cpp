#include "core/runtime.h"

#include "core/error.h"

#include <sys/mman.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace sffn {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t whole_pages(size_t bytes) {
  const size_t page = bytes >= kHugePage ? kHugePage : 4096;
  return (bytes + page - 1) / page * page;
}

void* map(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw RunError("memory", cat("cannot allocate ", bytes, " bytes: ", std::strerror(errno)));
  return data;
}

class CpuRuntime final : public DeviceRuntime {
 public:
  Device device() const override { return Device::cpu(); }
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    void* data = map(whole_pages(bytes));
    // Best effort: fewer page faults and TLB misses; correctness does not depend on it.
    if (bytes >= kHugePage) (void)madvise(data, whole_pages(bytes), MADV_HUGEPAGE);
    return data;
  }
  void release(void* data, size_t bytes) override {
    if (data != nullptr) munmap(data, whole_pages(bytes));
  }
  std::unique_ptr<NativeStream> make_stream(Urgency) override { return nullptr; }
  void copy_to_device(NativeStream*, void* device, const void* host, size_t bytes) override {
    if (bytes) std::memcpy(device, host, bytes);
  }
  void copy_to_host(NativeStream*, void* host, const void* device, size_t bytes) override {
    if (bytes) std::memcpy(host, device, bytes);
  }
  void synchronize(NativeStream*) override {}
};

// Addresses that no process has (x86-64 and arm64 give programs less than bit 55): a kernel that touches one by mistake
// dies at once. Nothing is mapped, so that limits on address space (ulimit -v, sanitizers) do not matter.
class MetaRuntime final : public DeviceRuntime {
 public:
  Device device() const override { return Device::meta(); }
  void* allocate(size_t bytes) override {
    if (bytes == 0) return nullptr;
    const std::lock_guard<std::mutex> lock(guard_);
    const size_t pages = bytes / kHugePage + 1;
    if (pages > kFirst / kHugePage - used_) throw RunError("meta device", cat("no addresses for ", bytes, " bytes"));
    const uintptr_t address = kFirst + used_ * kHugePage;
    used_ += pages;
    ++live_;
    return reinterpret_cast<void*>(address);
  }
  void release(void* data, size_t) override {
    if (data == nullptr) return;
    const std::lock_guard<std::mutex> lock(guard_);
    if (--live_ == 0) used_ = 0;
  }
  std::unique_ptr<NativeStream> make_stream(Urgency) override { return nullptr; }
  void copy_to_device(NativeStream*, void*, const void*, size_t) override {}
  void copy_to_host(NativeStream*, void*, const void*, size_t) override {
    throw RunError("meta device", "it holds no values; the caller must not read results on it");
  }
  void synchronize(NativeStream*) override {}

 private:
  static constexpr uintptr_t kFirst = uintptr_t{1} << 55;  // and as many addresses from there
  std::mutex guard_;
  size_t used_ = 0;  // pages given out since none were live
  size_t live_ = 0;  // allocations
};

struct HostEvent final : NativeEvent {
  std::chrono::steady_clock::time_point passed;
};

}  // namespace

void* DeviceRuntime::allocate_host(size_t bytes) { return cpu_runtime().allocate(bytes); }
void DeviceRuntime::release_host(void* data, size_t bytes) { cpu_runtime().release(data, bytes); }

std::unique_ptr<NativeEvent> DeviceRuntime::make_event() { return std::make_unique<HostEvent>(); }
void DeviceRuntime::record(NativeStream*, NativeEvent& event) {
  static_cast<HostEvent&>(event).passed = std::chrono::steady_clock::now();
}
double DeviceRuntime::milliseconds(const NativeEvent& begin, const NativeEvent& end) {
  const auto passed = [](const NativeEvent& event) { return static_cast<const HostEvent&>(event).passed; };
  return std::chrono::duration<double, std::milli>(passed(end) - passed(begin)).count();
}
std::unique_ptr<NativeGraph> DeviceRuntime::capture(NativeStream*, const std::function<void()>&) { return nullptr; }

DeviceRuntime& cpu_runtime() {
  static CpuRuntime runtime;
  return runtime;
}

DeviceRuntime& meta_runtime() {
  static MetaRuntime runtime;
  return runtime;
}

}  // namespace sffn
