#pragma once
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/record.h"

#include <string>
#include <vector>

namespace sffn {

struct Examined {
  std::vector<std::string> faults;  // file, place and what is wrong; none: `found` is sound
  FoundCheckpoint found;
  int ranks = 0;  // of the writer
};

// Collective, the same result on every rank: record, sizes, headers, ranges and, unless options.verify is off, every
// checksum; ranks share the blocks. Nothing here knows a model: what does not fit one is not damage.
Examined examine(Communicator& comm, const std::string& folder, const ReadOptions& options);

}  // namespace sffn
