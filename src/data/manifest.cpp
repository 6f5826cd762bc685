#include "data/manifest.h"

#include "core/file.h"

#include <algorithm>

namespace sffn {
namespace {

constexpr char kFormat[] = "sffn-tokens";
constexpr int64_t kVersion = 1;
constexpr size_t kMaxManifestBytes = size_t{64} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxCount = int64_t{1} << 56;  // sums of many counts stay inside an int64

// Reads one object strictly: every key once, none left over.
class Fields {
 public:
  Fields(const Json& json, std::string place, std::string path)
      : json_(json), place_(std::move(place)), path_(std::move(path)) {
    if (!json.is_object()) fail("", cat("is ", json.type_name(), "; an object was expected"));
  }

  const Json& value(std::string_view key) {
    const Json* found = json_.find(key);
    if (found == nullptr) fail(key, "is missing");
    read_.emplace_back(key);
    return *found;
  }
  int64_t integer(std::string_view key, int64_t least, int64_t most) {
    const Json& found = value(key);
    if (!found.is_int()) fail(key, cat("is ", found.type_name(), "; an integer was expected"));
    const int64_t number = found.as_int();
    if (number < least || number > most) fail(key, cat("is ", number, "; ", least, " to ", most, " is possible"));
    return number;
  }
  bool boolean(std::string_view key) {
    const Json& found = value(key);
    if (!found.is_bool()) fail(key, cat("is ", found.type_name(), "; true or false was expected"));
    return found.as_bool();
  }
  std::string text(std::string_view key) {
    const Json& found = value(key);
    if (!found.is_string()) fail(key, cat("is ", found.type_name(), "; a string was expected"));
    if (found.as_string().size() > 1024) fail(key, "is longer than 1024 bytes");
    return found.as_string();
  }
  std::string file_name(std::string_view key) {
    const std::string name = text(key);
    if (!is_plain_file_name(name)) fail(key, "is not the name of a file in the manifest's folder");
    return name;
  }
  Hash128 hash(std::string_view key) { return hash_of(value(key), key); }
  std::vector<Hash128> hashes(std::string_view key) {
    std::vector<Hash128> all;
    for (const Json& element : array(key)) all.push_back(hash_of(element, key));
    return all;
  }
  std::vector<int64_t> counts(std::string_view key) {
    std::vector<int64_t> all;
    for (const Json& element : array(key)) {
      const bool possible = element.is_int() && element.as_int() >= 0 && element.as_int() <= kMaxCount;
      if (!possible) fail(key, cat("[", all.size(), "] is ", element.dump(), "; a count was expected"));
      all.push_back(element.as_int());
    }
    return all;
  }
  const Json::Array& array(std::string_view key) {
    const Json& found = value(key);
    if (!found.is_array()) fail(key, cat("is ", found.type_name(), "; an array was expected"));
    return found.as_array();
  }
  void finish() const {
    for (const Json::Member& member : json_.as_object()) {
      if (std::find(read_.begin(), read_.end(), member.key) == read_.end()) fail(member.key, "is not a known key");
    }
  }
  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    std::string name = path_;
    if (!key.empty()) name += cat(name.empty() ? "" : ".", key);
    throw DamagedError(place_, name.empty() ? what : cat(name, " ", what));
  }

 private:
  Hash128 hash_of(const Json& json, std::string_view key) const {
    Hash128 hash;
    if (!json.is_string() || !parse_hash(json.as_string(), hash)) fail(key, "is not a checksum of 32 hex digits");
    return hash;
  }

  const Json& json_;
  std::string place_, path_;
  std::vector<std::string> read_;
};

Json to_json(const ShardRecord& shard) {
  Json json = Json::object();
  json["file"] = shard.file;
  json["documents"] = shard.documents;
  json["tokens"] = shard.tokens;
  json["bytes"] = shard.bytes;
  json["checksum"] = shard.checksum.hex();
  Json& blocks = json["block_checksums"] = Json::array();
  for (const Hash128& hash : shard.block_checksums) blocks.push_back(hash.hex());
  return json;
}

ShardRecord parse_shard(const Json& json, const std::string& place, const std::string& path, int64_t vocab_size) {
  Fields fields(json, place, path);
  ShardRecord shard;
  shard.file = fields.file_name("file");
  shard.documents = fields.integer("documents", 0, kMaxCount);
  shard.tokens = fields.integer("tokens", 0, kMaxShardTokens);
  shard.bytes = fields.integer("bytes", 0, kMaxCount);
  shard.checksum = fields.hash("checksum");
  shard.block_checksums = fields.hashes("block_checksums");
  const uint64_t size = kShardHeaderBytes + static_cast<uint64_t>(shard.tokens * token_bytes(vocab_size));
  const uint64_t blocks = (size + kChecksumBlock - 1) / kChecksumBlock;
  if (shard.block_checksums.size() != blocks) {
    fields.fail("block_checksums", cat("has ", shard.block_checksums.size(), " entries; ", shard.tokens,
                                       " tokens fill ", blocks, " blocks"));
  }
  fields.finish();
  return shard;
}

SideRecord parse_side_at(const Json& json, const std::string& place, const std::string& path, int64_t vocab_size) {
  Fields fields(json, place, path);
  SideRecord side, sum;
  side.documents = fields.integer("documents", 0, kMaxCount);
  side.tokens = fields.integer("tokens", 0, kMaxCount);
  side.bytes = fields.integer("bytes", 0, kMaxCount);
  side.token_counts = fields.counts("token_counts");
  for (const Json& element : fields.array("shards")) {
    const std::string shard_path = cat(path, path.empty() ? "" : ".", "shards[", side.shards.size(), "]");
    side.shards.push_back(parse_shard(element, place, shard_path, vocab_size));
    const ShardRecord& shard = side.shards.back();
    sum.documents = std::min(kMaxCount + 1, sum.documents + shard.documents);
    sum.tokens += shard.tokens;
    sum.bytes = std::min(kMaxCount + 1, sum.bytes + shard.bytes);
  }
  if (side.documents != sum.documents) fields.fail("documents", cat("is not the sum of the shards, ", sum.documents));
  if (side.tokens != sum.tokens) fields.fail("tokens", cat("is not the sum of the shards, ", sum.tokens));
  if (side.bytes != sum.bytes) fields.fail("bytes", cat("is not the sum of the shards, ", sum.bytes));
  if (!side.token_counts.empty() && std::ssize(side.token_counts) != vocab_size) {
    fields.fail("token_counts", cat("has ", side.token_counts.size(), " entries; the vocabulary has ", vocab_size));
  }
  int64_t counted = 0;
  for (const int64_t count : side.token_counts) counted = std::min(kMaxCount + 1, counted + count);
  if (counted != side.tokens) fields.fail("token_counts", cat("add up to ", counted, "; tokens is ", side.tokens));
  fields.finish();
  return side;
}

}  // namespace

Json to_json(const SideRecord& side) {
  Json json = Json::object();
  json["documents"] = side.documents;
  json["tokens"] = side.tokens;
  json["bytes"] = side.bytes;
  json["token_counts"] = Json::Array(side.token_counts.begin(), side.token_counts.end());
  Json& shards = json["shards"] = Json::array();
  for (const ShardRecord& shard : side.shards) shards.push_back(to_json(shard));
  return json;
}

Json to_json(const Manifest& m) {
  Json json = Json::object();
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["name"] = m.name;
  Json& tokenizer = json["tokenizer"];
  tokenizer["name"] = m.tokenizer_name;
  tokenizer["hash"] = m.tokenizer_hash.hex();
  tokenizer["file"] = m.tokenizer_file.empty() ? Json() : Json(m.tokenizer_file);
  tokenizer["trained"] = m.tokenizer_trained;
  json["vocab_size"] = m.vocab_size;
  json["end_of_document"] = m.end_of_document;
  json["newlines"] = m.newlines;
  json["duplicates"] = m.duplicates;
  json["empty"] = m.empty;
  json["invalid_utf8_bytes"] = m.invalid_utf8_bytes;
  json["val_fraction"] = m.val_fraction;
  json["shard_tokens"] = m.shard_tokens;
  json["inputs_hash"] = m.inputs_hash.hex();
  json["documents_hash"] = m.documents_hash.hex();
  json["train"] = to_json(m.train);
  json["validation"] = to_json(m.validation);
  return json;
}

SideRecord parse_side(const Json& json, const std::string& place, int64_t vocab_size) {
  return parse_side_at(json, place, "", vocab_size);
}

Manifest parse_manifest(std::string_view text, const std::string& place) {
  const Json json = parse_json(text, place, ExitCode::kDamaged);
  Fields fields(json, place, "");
  if (fields.text("format") != kFormat) fields.fail("format", cat("is not \"", kFormat, "\""));
  fields.integer("version", kVersion, kVersion);
  Manifest m;
  m.name = fields.text("name");
  Fields tokenizer(fields.value("tokenizer"), place, "tokenizer");
  m.tokenizer_name = tokenizer.text("name");
  m.tokenizer_hash = tokenizer.hash("hash");
  if (!tokenizer.value("file").is_null()) m.tokenizer_file = tokenizer.file_name("file");
  m.tokenizer_trained = tokenizer.boolean("trained");
  tokenizer.finish();
  m.vocab_size = fields.integer("vocab_size", 1, kMaxVocabulary);
  m.end_of_document = fields.integer("end_of_document", 0, m.vocab_size - 1);
  m.newlines = fields.text("newlines");
  m.duplicates = fields.integer("duplicates", 0, kMaxCount);
  m.empty = fields.integer("empty", 0, kMaxCount);
  m.invalid_utf8_bytes = fields.integer("invalid_utf8_bytes", 0, kMaxCount);
  const Json& fraction = fields.value("val_fraction");
  if (!fraction.is_number()) fields.fail("val_fraction", "is not a number");
  m.val_fraction = fraction.as_double();
  m.shard_tokens = fields.integer("shard_tokens", 1, kMaxShardTokens);
  m.inputs_hash = fields.hash("inputs_hash");
  m.documents_hash = fields.hash("documents_hash");
  m.train = parse_side_at(fields.value("train"), place, "train", m.vocab_size);
  m.validation = parse_side_at(fields.value("validation"), place, "validation", m.vocab_size);
  fields.finish();
  return m;
}

std::optional<Manifest> find_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  if (!exists(path)) return std::nullopt;
  return parse_manifest(read_file(path, kMaxManifestBytes, ExitCode::kDamaged), path);
}

}  // namespace sffn
