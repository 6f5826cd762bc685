// Writes one side (train or validation) of a corpus as token shards of at most `shard_tokens` tokens. A document that
// does not fit into what is left of a shard begins the next one; only a document longer than a shard is cut at its end.
// A shard is written beside its final name, fsynced and renamed when it is complete.
#pragma once
#include "core/file.h"
#include "data/manifest.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace sffn {

// What the complete shards of a side hold: enough to go on from there.
struct SideProgress {
  SideRecord record;
  int64_t cut_tokens = 0;  // of the next document, already in the last complete shard

  bool operator==(const SideProgress&) const = default;
};

class ShardWriter {
 public:
  // Goes on after the shards of `done`. `on_complete` is called after each further shard. `side` begins file names.
  ShardWriter(std::string folder, std::string side, int64_t vocab_size, int64_t shard_tokens, SideProgress done,
              std::function<void()> on_complete);
  ~ShardWriter();  // removes an unfinished shard

  // One document; `ids` hold its end-of-document id. The first call after a resume passes the whole of the document
  // that was cut. Throws RunError naming the file (a full disk).
  void add(std::span<const int32_t> ids, int64_t text_bytes);
  void finish();

  const SideProgress& progress() const { return progress_; }

 private:
  void begin_shard();
  void put(std::span<const int32_t> ids);
  void flush();
  void complete_shard();

  std::string folder_, side_;
  int64_t vocab_size_, shard_tokens_, bytes_per_token_;
  SideProgress progress_;
  std::function<void()> on_complete_;
  bool open_ = false;
  File file_;
  ShardRecord shard_;
  std::vector<int64_t> shard_counts_;  // of each id in shard_
  std::vector<unsigned char> buffer_;
};

}  // namespace sffn
