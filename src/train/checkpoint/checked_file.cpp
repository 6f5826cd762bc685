#include "train/checkpoint/checked_file.h"

#include "core/fault.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace sffn {
namespace {

File create(const std::string& folder, const std::string& path) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  while (!exists(folder) && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return File::open(path, File::Mode::kCreateNew);
}

}  // namespace

CheckedFile::CheckedFile(const std::string& folder, const std::string& name, uint64_t bytes, int64_t step,
                         std::function<void()> progress)
    : file_(create(folder, folder + "/" + name)), step_(step), progress_(std::move(progress)) {
  record_.name = name;
  record_.bytes = bytes;
  file_.reserve(bytes);
  fault_point("opened", step_, file_.path());
}

void CheckedFile::write(const void* data, uint64_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const uint64_t part = std::min(bytes, kChecksumBlock - written_ % kChecksumBlock);
    block_.update(next, part);
    file_.write(next, part);
    written_ += part;
    next += part;
    bytes -= part;
    if (written_ % kChecksumBlock == 0 || written_ == record_.bytes) {
      record_.blocks.push_back(block_.digest());
      block_.reset();
      if (progress_) progress_();
    }
    if (written_ < record_.bytes) fault_point("mid_write", step_, file_.path());
  }
}

FileRecord CheckedFile::finish() {
  SFFN_CHECK(written_ == record_.bytes, file_.path(), ": ", written_, " bytes were written of ", record_.bytes);
  fault_point("written", step_, file_.path());
  file_.sync();
  file_.close();
  return std::move(record_);
}

}  // namespace sffn
