// The distinct documents of all inputs by their hashes, 16 bytes each, and the side each belongs to.
#pragma once
#include "core/hash.h"
#include "data/inputs.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sffn {

struct DocumentCounts {
  int64_t documents = 0;   // with text
  int64_t duplicates = 0;  // of these
  int64_t empty = 0;
  int64_t bytes = 0;  // of text, duplicates included
};

class DocumentSet {
 public:
  // Reads every file, `jobs` at a time. `on_bytes` hears of bytes of files read, from any thread, one at a time.
  DocumentSet(const std::vector<InputFile>& files, int jobs, const std::function<void(uint64_t)>& on_bytes);

  // A document is validation when its hash, as a fraction of 2^64, is below `val_fraction`. A side that would be empty
  // gets the document with the smallest (validation) or largest (train) hash; returns a line that says so, else "".
  // Throws UsageError for fewer than two documents.
  std::string split(double val_fraction);

  int64_t size() const { return static_cast<int64_t>(hashes_.size()); }
  const DocumentCounts& counts() const { return counts_; }
  // Rank of a hash in ascending order, -1 if it is not there.
  int64_t index_of(const Hash128& hash) const;
  bool is_validation(int64_t index) const { return index < validation_; }
  Hash128 hash() const;

 private:
  std::vector<Hash128> hashes_;  // ascending
  DocumentCounts counts_;
  int64_t validation_ = 0;  // the first so many
};

}  // namespace sffn
