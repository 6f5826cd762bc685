#pragma once
#include "core/file.h"
#include "core/hash.h"
#include "train/checkpoint/record.h"

#include <functional>
#include <string>

namespace sffn {

// A new file of known size, written from front to back. Its checksums are taken from memory before a byte is written,
// so that what reaches the disk differently is found.
class CheckedFile {
 public:
  // `folder` must exist; on network file systems a new one shows late, so its absence is waited out for 10 s.
  CheckedFile(const std::string& folder, const std::string& name, uint64_t bytes, int64_t step,
              std::function<void()> progress);
  void write(const void* data, uint64_t bytes);
  FileRecord finish();  // fsync and close; RunError unless exactly the announced bytes were written

 private:
  File file_;
  FileRecord record_;
  HashStream block_;
  uint64_t written_ = 0;
  int64_t step_;
  std::function<void()> progress_;
};

}  // namespace sffn
