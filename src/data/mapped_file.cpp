#include "data/mapped_file.h"

#include "core/file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

namespace sffn {
namespace {

// The handler walks a list that only grows; an entry is in use while its length is not 0, and is used again later.
struct Guard {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uint64_t> length{0};
  char path[1024] = {};
  Guard* next = nullptr;
};

std::atomic<Guard*> guards{nullptr};
std::mutex guards_mutex;

size_t append(char* out, size_t at, size_t limit, const char* text) {
  while (*text != '\0' && at < limit) out[at++] = *text++;
  return at;
}

size_t append_number(char* out, size_t at, size_t limit, uint64_t number) {
  char digits[21];
  size_t first = sizeof digits - 1;
  digits[first] = '\0';
  do digits[--first] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  return append(out, at, limit, digits + first);
}

// Async-signal-safe: loads of atomics, write and _exit.
void on_bus_error(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Guard* guard = guards.load(); guard != nullptr; guard = guard->next) {
    const uintptr_t begin = guard->begin.load();
    if (address < begin || address - begin >= guard->length.load()) continue;
    char line[1400];
    size_t n = append(line, 0, sizeof line, "error: ");
    n = append(line, n, sizeof line, guard->path);
    n = append(line, n, sizeof line, ": cannot be read at offset ");
    n = append_number(line, n, sizeof line, address - begin);
    n = append(line, n, sizeof line, ": the file became shorter or its disk failed while it was in use\n");
    if (write(STDERR_FILENO, line, n) < 0) _exit(static_cast<int>(ExitCode::kDamaged));
    _exit(static_cast<int>(ExitCode::kDamaged));
  }
  signal(SIGBUS, SIG_DFL);  // not ours: the instruction runs again and ends the process as it would have
}

Guard* add_guard(const std::string& path, const void* data, uint64_t size) {
  const std::lock_guard<std::mutex> lock(guards_mutex);
  Guard* guard = guards.load();
  while (guard != nullptr && guard->length.load() != 0) guard = guard->next;
  const bool fresh = guard == nullptr;
  if (fresh) {
    guard = new Guard;  // never freed: the handler may run at any time
    guard->next = guards.load();
  }
  const size_t n = path.copy(guard->path, sizeof guard->path - 1);
  guard->path[n] = '\0';
  guard->begin.store(reinterpret_cast<uintptr_t>(data));
  guard->length.store(size);
  if (fresh) guards.store(guard);
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  SFFN_CHECK(installed, "the handler of SIGBUS cannot be installed");
  return guard;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const File file = File::open(path, File::Mode::kRead, ExitCode::kDamaged);
  size_ = file.size();
  if (size_ == 0) return;
  void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (data == MAP_FAILED) throw DamagedError(path, cat("cannot be mapped: ", std::strerror(errno)));
  data_ = static_cast<const unsigned char*>(data);
  guard_ = add_guard(path, data, size_);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  swap(other);
  return *this;
}

void MappedFile::swap(MappedFile& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(guard_, other.guard_);
}

MappedFile::~MappedFile() {
  if (guard_ != nullptr) static_cast<Guard*>(guard_)->length.store(0);
  if (data_ != nullptr) munmap(const_cast<unsigned char*>(data_), size_);
}

}  // namespace sffn
