// The files that --input names.
#pragma once
#include "core/hash.h"

#include <cstdint>
#include <string>
#include <vector>

namespace sffn {

struct InputFile {
  std::string path;
  uint64_t size = 0;     // on disk
  int64_t modified = 0;  // nanoseconds

  auto operator<=>(const InputFile&) const = default;
};

// Files, folders (all text files below) and globs, sorted by path, each once. Throws UsageError for a path that is not
// there, a glob without a match, a named file that is not of a known kind, and where no file is left.
std::vector<InputFile> expand_inputs(const std::vector<std::string>& inputs);

Hash128 hash_of(const std::vector<InputFile>& files);

}  // namespace sffn
