// One token shard, memory-mapped: 256 int32 (magic, version, count of tokens, zeros), then the ids.
//   magic 20240520 version 1: uint16      magic 20240801 version 7: uint32      (llm.c's data files)
#pragma once
#include "data/manifest.h"
#include "data/mapped_file.h"

#include <cstdint>
#include <string>
#include <vector>

namespace sffn {

struct ShardHeader {
  int64_t tokens = 0;
  int64_t bytes_per_token = 2;
};

// The first 1024 bytes of a shard.
std::vector<unsigned char> encode_shard_header(const ShardHeader&);

class TokenFile {
 public:
  // Checks magic, version and size. With a record (of manifest.json) the count must agree, and each 8 MiB of the file
  // is checked against its checksum when it is first read. Ids at or above `vocab_size` are damage. Throws
  // DamagedError.
  TokenFile(const std::string& path, const ShardRecord* record, int64_t vocab_size);

  const std::string& path() const { return file_.path(); }
  int64_t tokens() const { return header_.tokens; }
  int64_t vocab_size() const { return vocab_size_; }

  // ids = tokens [begin, begin + count). Throws DamagedError naming file and offset. Not for several threads at once.
  void read(int32_t* ids, int64_t begin, int64_t count) const;
  // From the recorded checksum, or from header, size and a sample of the bytes where there is no record.
  Hash128 fingerprint() const;

  // Every fault: checksums of all blocks and of the whole, and ids (the first of them and their number).
  std::vector<std::string> find_faults() const;

 private:
  void check_header();
  void verify_blocks(uint64_t begin_byte, uint64_t end_byte) const;
  bool block_is_good(uint64_t block) const;
  template <class T>
  void copy(int32_t* ids, int64_t begin, int64_t count) const;
  int64_t id_at(int64_t index) const;

  MappedFile file_;
  ShardHeader header_;
  int64_t vocab_size_;
  bool has_record_ = false;
  Hash128 checksum_;
  std::vector<Hash128> block_checksums_;
  mutable std::vector<bool> verified_;
};

}  // namespace sffn
