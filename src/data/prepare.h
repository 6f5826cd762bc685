// Text files to token shards with a manifest.
//   pass 1  hashes every document (16 bytes each in memory): duplicates and sides follow
//   pass 2  reads again in order of path, tokenizes on all cores, writes train-NNNNNN.bin and val-NNNNNN.bin
// One end-of-document id follows each document. Of equal documents the first in order is kept. The result depends on
// the texts, the order of their paths and the options; not on the number of threads or on interruptions.
#pragma once
#include "data/manifest.h"
#include "data/tokenizer.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sffn {

struct PrepareOptions {
  std::vector<std::string> inputs;  // files, folders, globs
  std::string out;
  std::string name;  // empty: the last component of `out`
  TokenizerChoice tokenizer;
  double val_fraction = 0.005;
  int64_t shard_tokens = 100'000'000;
  int jobs = 0;  // 0: the processors of the affinity mask
};

struct PrepareProgress {
  const char* phase = "";    // "hashing", "sampling", "training the tokenizer", "tokenizing"
  uint64_t bytes = 0;        // of the files, in this phase
  uint64_t total_bytes = 0;  // 0: not known
};

struct PrepareSummary {
  Manifest manifest;
  bool already_complete = false;  // nothing was done
  int64_t resumed_shards = 0;     // taken over from an interrupted run
  int64_t files = 0;
  int64_t text_bytes = 0;          // duplicates included; 0 when already complete
  std::vector<std::string> notes;  // lines for the user
};

// `on_progress` is called from any thread, one call at a time; what it throws ends the run. Throws UsageError (inputs,
// options, an output folder with other contents), DamagedError (damaged compressed input), RunError (a full disk).
PrepareSummary prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& on_progress);

// Processors this process may run on.
int available_processors();

}  // namespace sffn
