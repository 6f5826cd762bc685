// Files with every call checked. Nothing here uses iostreams: they lose write errors.
#pragma once
#include "core/error.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

// An open descriptor; closed on destruction (writers call close() to see its error).
class File {
 public:
  enum class Mode { kRead, kCreateNew, kTruncate, kAppend };

  // Throws an Error of `code` naming the path and the system's reason. Reading accepts regular files only.
  static File open(const std::string& path, Mode mode, ExitCode code = ExitCode::kRunFailed);
  // For reading a file whose name comes from another file: the name is one plain component inside `folder`, and links
  // are not followed.
  static File open_beneath(const std::string& folder, const std::string& name, ExitCode code = ExitCode::kDamaged);
  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  uint64_t size() const;
  void read_exact(void* data, size_t bytes, uint64_t offset) const;   // throws DamagedError on a short file
  size_t read_some(void* data, size_t bytes, uint64_t offset) const;  // fewer bytes only at the end of the file
  void write(const void* data, size_t bytes);                         // all of them, at the current position
  void write_at(const void* data, size_t bytes, uint64_t offset);
  void reserve(uint64_t bytes);  // disk space up front; ENOSPC throws, file systems that cannot are left as they are
  void sync();
  void close();

 private:
  void check_regular() const;
  std::string path_;
  int descriptor_ = -1;
  ExitCode code_ = ExitCode::kRunFailed;
};

// The whole file as text; an Error of `code` when it is missing, not a regular file, or larger than `limit`.
std::string read_file(const std::string& path, size_t limit, ExitCode code);
// Temporary sibling, write, fsync, rename, fsync of the folder: the file is either the old one or the new one.
void write_file_atomically(const std::string& path, std::string_view text);

bool exists(const std::string& path);
void make_directories(const std::string& path);  // throws UsageError naming the folder that cannot be made
void rename_path(const std::string& from, const std::string& to);
void remove_tree(const std::string& path);  // does not follow links
void sync_directory(const std::string& path);
std::vector<std::string> list_directory(const std::string& path);  // names, sorted; empty if the folder is absent
// Paths that match, sorted; a pattern without wildcards matches itself if it exists.
std::vector<std::string> glob_paths(const std::string& pattern);
// One path component that is safe to join to a folder: no separator, not "." or "..", no NUL, not empty.
bool is_plain_file_name(std::string_view name);

}  // namespace sffn
