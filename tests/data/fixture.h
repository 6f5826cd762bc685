// Folders and token shards for the tests of the data layer.
#pragma once
#include "core/error.h"
#include "core/file.h"
#include "data/manifest.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "support/temp_folder.h"

#include <string>
#include <vector>

namespace sffn::test {

inline void flip_bit(const std::string& path, size_t offset) {
  std::string text = read_text(path);
  text.at(offset) = static_cast<char>(text[offset] ^ 1);
  write_text(path, text);
}

inline std::string shard_bytes(const std::vector<uint32_t>& ids, int64_t width = 2) {
  const auto header = encode_shard_header({static_cast<int64_t>(ids.size()), width});
  std::string bytes(header.begin(), header.end());
  for (const uint32_t id : ids) {
    for (int64_t i = 0; i < width; ++i) bytes.push_back(static_cast<char>(id >> 8 * i));
  }
  return bytes;
}

inline ShardRecord record_of(const std::string& name, const std::string& bytes, int64_t tokens) {
  ShardRecord record;
  record.file = name;
  record.tokens = tokens;
  record.checksum = hash128(bytes);
  for (size_t at = 0; at < bytes.size(); at += kChecksumBlock) {
    record.block_checksums.push_back(hash128(std::string_view(bytes).substr(at, kChecksumBlock)));
  }
  return record;
}

// Writes train-00000I.bin for each list of ids and a manifest of vocabulary `vocab` whose last id ends documents.
// Vocabulary 257 is the bytes tokenizer's.
inline Manifest write_corpus(const std::string& folder, const std::vector<std::vector<uint32_t>>& shards,
                             int64_t vocab) {
  make_directories(folder);
  Manifest manifest;
  manifest.name = "test";
  manifest.tokenizer_name = vocab == 257 ? "bytes" : "spm";
  manifest.tokenizer_hash = vocab == 257 ? make_byte_tokenizer()->hash() : hash128(cat("vocabulary ", vocab));
  if (vocab != 257) manifest.tokenizer_file = "tokenizer.model";  // which is not there
  manifest.vocab_size = vocab;
  manifest.end_of_document = vocab - 1;
  manifest.shard_tokens = 1000;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = cat("train-00000", i, ".bin");
    const std::string bytes = shard_bytes(shards[i], token_bytes(vocab));
    write_text(folder + "/" + name, bytes);
    manifest.train.shards.push_back(record_of(name, bytes, static_cast<int64_t>(shards[i].size())));
    manifest.train.tokens += static_cast<int64_t>(shards[i].size());
    manifest.train.token_counts.resize(static_cast<size_t>(vocab));
    for (const uint32_t id : shards[i]) ++manifest.train.token_counts.at(id);
  }
  write_text(folder + "/" + kManifestName, to_json(manifest).dump(1));
  return manifest;
}

inline std::vector<uint32_t> counting(uint32_t first, uint32_t count) {
  std::vector<uint32_t> ids(count);
  for (uint32_t i = 0; i < count; ++i) ids[i] = first + i;
  return ids;
}

struct Caught {
  int code = 0;
  std::string text;
  bool has(const std::string& part) const { return text.find(part) != std::string::npos; }
};
// The Error that `call` throws; code 0 when it throws none.
template <class F>
Caught caught(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {};
}

}  // namespace sffn::test
