// manifest.json, beside the token shards it describes: what made them, and checksums that readers verify.
#pragma once
#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sffn {

constexpr char kManifestName[] = "manifest.json";
constexpr uint64_t kShardHeaderBytes = 1024;
constexpr uint64_t kChecksumBlock = uint64_t{8} << 20;
constexpr int64_t kMaxShardTokens = INT32_MAX;  // the header's count is an int32

// Of an id in shards of a vocabulary.
constexpr int64_t token_bytes(int64_t vocab_size) { return vocab_size > 65536 ? 4 : 2; }

struct ShardRecord {
  std::string file;                      // a plain name inside the manifest's folder
  int64_t documents = 0;                 // that end in this shard
  int64_t tokens = 0;                    // end-of-document ids included
  int64_t bytes = 0;                     // of text, for the documents that end here
  Hash128 checksum;                      // XXH3-128 of the whole file, header included
  std::vector<Hash128> block_checksums;  // XXH3-128 of each 8 MiB of the file

  bool operator==(const ShardRecord&) const = default;
};

struct SideRecord {
  int64_t documents = 0, tokens = 0, bytes = 0;
  std::vector<int64_t> token_counts;  // [vocabulary]: how often each id stands in the shards; empty without tokens
  std::vector<ShardRecord> shards;

  bool operator==(const SideRecord&) const = default;
};

struct Manifest {
  std::string name;
  std::string tokenizer_name;  // "bytes" | "spm"
  Hash128 tokenizer_hash;
  std::string tokenizer_file;      // a plain name inside the folder; empty where the tokenizer needs none
  bool tokenizer_trained = false;  // on this text
  int64_t vocab_size = 0;
  int64_t end_of_document = 0;
  std::string newlines = "kept";
  int64_t duplicates = 0;          // documents dropped
  int64_t empty = 0;               // documents dropped
  int64_t invalid_utf8_bytes = 0;  // of the text written; tokenized byte by byte
  double val_fraction = 0;
  int64_t shard_tokens = 0;
  Hash128 inputs_hash;     // path, size and time of every input file
  Hash128 documents_hash;  // the sorted hashes of the distinct documents
  SideRecord train, validation;

  bool operator==(const Manifest&) const = default;
};

Json to_json(const Manifest&);
Json to_json(const SideRecord&);
// Throw DamagedError at `place` naming the key: a wrong type, an unknown or missing key, a name that leaves the folder,
// counts that do not add up, a number of checksums that does not fit the count of tokens.
Manifest parse_manifest(std::string_view text, const std::string& place);
SideRecord parse_side(const Json& json, const std::string& place, int64_t vocab_size);
// The manifest of a folder, or nothing where there is none.
std::optional<Manifest> find_manifest(const std::string& folder);

}  // namespace sffn
