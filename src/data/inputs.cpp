#include "data/inputs.h"

#include "core/file.h"
#include "data/text_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace sffn {
namespace {

namespace fs = std::filesystem;

struct stat status_of(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) throw UsageError(path, cat("cannot be read: ", std::strerror(errno)));
  return info;
}

void add_file(std::vector<InputFile>& files, const std::string& path, const struct stat& info) {
  constexpr int64_t kNanoseconds = 1'000'000'000;
  files.push_back(
      {path, static_cast<uint64_t>(info.st_size), info.st_mtim.tv_sec * kNanoseconds + info.st_mtim.tv_nsec});
}

void add_folder(std::vector<InputFile>& files, const std::string& folder) {
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    const std::string path = it->path().string();
    std::error_code gone;  // a link to nothing is no file
    if (is_text_name(path) && it->is_regular_file(gone)) add_file(files, path, status_of(path));
  }
  if (error) throw UsageError(folder, "cannot be listed: " + error.message());
}

void add_named(std::vector<InputFile>& files, const std::string& path) {
  const struct stat info = status_of(path);
  if (S_ISDIR(info.st_mode)) return add_folder(files, path);
  if (!is_text_name(path)) throw UsageError(path, cat("is not of a known kind; known are ", kTextNames));
  if (!S_ISREG(info.st_mode)) throw UsageError(path, "is not a regular file");
  add_file(files, path, info);
}

}  // namespace

std::vector<InputFile> expand_inputs(const std::vector<std::string>& inputs) {
  std::vector<InputFile> files;
  for (const std::string& input : inputs) {
    const bool pattern = !exists(input) && input.find_first_of("*?[") != std::string::npos;
    const std::vector<std::string> paths = pattern ? glob_paths(input) : std::vector<std::string>{input};
    if (paths.empty()) throw UsageError(input, "no file matches");
    for (const std::string& path : paths) add_named(files, path);
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  if (files.empty()) {
    throw UsageError(inputs.empty() ? "--input" : inputs.front(), cat("holds no text; looked for files ", kTextNames));
  }
  return files;
}

Hash128 hash_of(const std::vector<InputFile>& files) {
  HashStream hash;
  for (const InputFile& file : files) {
    hash.update(file.path.c_str(), file.path.size() + 1);
    hash.update(&file.size, sizeof file.size);
    hash.update(&file.modified, sizeof file.modified);
  }
  return hash.digest();
}

}  // namespace sffn
