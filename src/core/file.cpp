#include "core/file.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace sffn {
namespace {

namespace fs = std::filesystem;

std::string reason() { return std::strerror(errno); }

int open_flags(File::Mode mode) {
  switch (mode) {
    case File::Mode::kRead:
      return O_RDONLY | O_NONBLOCK;  // a FIFO must not block before it is refused
    case File::Mode::kCreateNew:
      return O_WRONLY | O_CREAT | O_EXCL;
    case File::Mode::kTruncate:
      return O_WRONLY | O_CREAT | O_TRUNC;
    case File::Mode::kAppend:
      return O_WRONLY | O_CREAT | O_APPEND;
  }
  return O_RDONLY;
}

}  // namespace

File File::open(const std::string& path, Mode mode, ExitCode code) {
  File file;
  file.path_ = path;
  file.code_ = code;
  file.descriptor_ = ::open(path.c_str(), open_flags(mode) | O_CLOEXEC, 0644);
  if (file.descriptor_ < 0) {
    throw Error(code, path, cat("cannot open for ", mode == Mode::kRead ? "reading" : "writing", ": ", reason()));
  }
  if (mode == Mode::kRead) file.check_regular();
  return file;
}

File File::open_beneath(const std::string& folder, const std::string& name, ExitCode code) {
  File file;
  file.path_ = folder + "/" + name;
  file.code_ = code;
  if (!is_plain_file_name(name)) throw Error(code, folder, "a file name inside it is not a plain name");
  const int parent = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) throw Error(code, folder, "cannot open the folder: " + reason());
  file.descriptor_ = openat(parent, name.c_str(), open_flags(Mode::kRead) | O_NOFOLLOW | O_CLOEXEC);
  const std::string why = file.descriptor_ >= 0 ? "" : errno == ELOOP ? "it is a link" : reason();
  ::close(parent);
  if (file.descriptor_ < 0) throw Error(code, file.path_, "cannot open for reading: " + why);
  file.check_regular();
  return file;
}

void File::check_regular() const {
  struct stat info;
  if (fstat(descriptor_, &info) != 0) throw Error(code_, path_, "cannot stat: " + reason());
  if (!S_ISREG(info.st_mode)) throw Error(code_, path_, "is not a regular file");
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), code_(other.code_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(code_, other.code_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

uint64_t File::size() const {
  struct stat info;
  if (fstat(descriptor_, &info) != 0) throw Error(code_, path_, "cannot stat: " + reason());
  return static_cast<uint64_t>(info.st_size);
}

size_t File::read_some(void* data, size_t bytes, uint64_t offset) const {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t got = pread(descriptor_, static_cast<char*>(data) + done, bytes - done, offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(code_, path_, cat("cannot read at offset ", offset + done, ": ", reason()));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void File::read_exact(void* data, size_t bytes, uint64_t offset) const {
  const size_t got = read_some(data, bytes, offset);
  if (got < bytes) {
    throw DamagedError(path_, cat("ends at offset ", offset + got, "; ", bytes - got, " more bytes were expected"));
  }
}

void File::write(const void* data, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t put = ::write(descriptor_, static_cast<const char*>(data) + done, bytes - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw Error(code_, path_, "cannot write: " + reason());
    done += static_cast<size_t>(put);
  }
}

void File::write_at(const void* data, size_t bytes, uint64_t offset) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t put = pwrite(descriptor_, static_cast<const char*>(data) + done, bytes - done, offset + done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw Error(code_, path_, cat("cannot write at offset ", offset + done, ": ", reason()));
    done += static_cast<size_t>(put);
  }
}

void File::reserve(uint64_t bytes) {
  if (bytes == 0 || fallocate(descriptor_, 0, 0, static_cast<off_t>(bytes)) == 0) return;
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return;
  throw Error(code_, path_, cat("cannot reserve ", bytes, " bytes: ", reason()));
}

void File::sync() {
  if (fsync(descriptor_) != 0) throw Error(code_, path_, "cannot fsync: " + reason());
}

void File::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0) throw Error(code_, path_, "cannot close: " + reason());
}

std::string read_file(const std::string& path, size_t limit, ExitCode code) {
  const File file = File::open(path, File::Mode::kRead, code);
  const uint64_t size = file.size();
  if (size > limit) throw Error(code, path, cat("is ", size, " bytes; at most ", limit, " are read"));
  std::string text(size, '\0');
  file.read_exact(text.data(), text.size(), 0);
  return text;
}

void write_file_atomically(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  File file = File::open(temporary, File::Mode::kTruncate);
  file.write(text.data(), text.size());
  file.sync();
  file.close();
  rename_path(temporary, path);
  const fs::path parent = fs::path(path).parent_path();
  sync_directory(parent.empty() ? "." : parent.string());
}

bool exists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

void make_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw UsageError(path, "cannot make the folder: " + error.message());
}

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) throw RunError(from, cat("cannot rename to ", to, ": ", reason()));
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw RunError(path, "cannot remove: " + error.message());
}

void sync_directory(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw RunError(path, "cannot open the folder: " + reason());
  const int failed = fsync(descriptor);
  const std::string why = failed ? reason() : "";
  ::close(descriptor);
  if (failed) throw RunError(path, "cannot fsync the folder: " + why);
}

std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw RunError(path, "cannot list the folder: " + error.message());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> glob_paths(const std::string& pattern) {
  glob_t matches{};
  const int result = ::glob(pattern.c_str(), 0, nullptr, &matches);
  std::vector<std::string> paths;
  if (result == 0) paths.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  globfree(&matches);
  if (result != 0 && result != GLOB_NOMATCH) throw RunError(pattern, "cannot expand the pattern: " + reason());
  return paths;  // glob() sorts
}

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace sffn
