// A file mapped for reading. A page that cannot be read any more (the file became shorter, the disk failed) arrives as
// SIGBUS: the process then prints the file and the offset and exits with the code of damaged data.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace sffn {

class MappedFile {
 public:
  MappedFile() = default;
  // Regular files only; throws DamagedError naming the path. Installs the SIGBUS handler at the first call.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  const unsigned char* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  void swap(MappedFile& other) noexcept;

  std::string path_;
  const unsigned char* data_ = nullptr;
  uint64_t size_ = 0;
  void* guard_ = nullptr;  // entry of the signal handler's list
};

}  // namespace sffn
