#include "comm/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>

namespace sffn {
namespace {

using Name = std::array<char, 64>;

RunError error_of(const char* call, const Name& name) {
  return RunError("shared memory", cat(call, " ", name.data(), ": ", std::strerror(errno)));
}

// A name nobody has: O_EXCL refuses one that exists.
int create(Name& name, size_t bytes) {
  std::random_device random;
  int file = -1;
  for (int attempt = 0; attempt < 100 && file < 0; ++attempt) {
    std::snprintf(name.data(), name.size(), "/sffn-%ld-%08x", static_cast<long>(getpid()), random());
    file = shm_open(name.data(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file < 0 && errno != EEXIST) throw error_of("shm_open", name);
  }
  if (file < 0) throw error_of("shm_open", name);
  // posix_fallocate and not ftruncate alone: a full /dev/shm is an error here, not a SIGBUS later.
  errno = posix_fallocate(file, 0, static_cast<off_t>(bytes));
  if (errno != 0) {
    const RunError error = error_of("posix_fallocate", name);
    close(file);
    shm_unlink(name.data());
    throw error;
  }
  return file;
}

}  // namespace

SharedMemory::SharedMemory(Communicator& host, size_t bytes) : bytes_(bytes) {
  SFFN_CHECK(bytes > 0, "no bytes");
  if (host.size() == 1) {  // nobody to share with: works where /dev/shm does not
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw RunError("shared memory", cat("mmap: ", std::strerror(errno)));
    return;
  }
  Name name = {};
  int file = host.rank() == 0 ? create(name, bytes) : -1;
  host.broadcast_bytes(name.data(), name.size(), 0);
  if (host.rank() != 0) file = shm_open(name.data(), O_RDWR | O_CLOEXEC, 0);
  const int opened_errno = errno;
  host.barrier();
  if (host.rank() == 0) shm_unlink(name.data());
  errno = opened_errno;
  if (file < 0) throw error_of("shm_open", name);
  data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (data_ == MAP_FAILED) throw error_of("mmap", name);
}

SharedMemory::~SharedMemory() { munmap(data_, bytes_); }

}  // namespace sffn
