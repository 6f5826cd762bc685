#include "train/checkpoint/record.h"

#include "core/file.h"
#include "core/json.h"

#include <algorithm>
#include <cstdio>

namespace sffn {
namespace {

constexpr int kFormat = 1;

Json to_json(const std::vector<FileRecord>& files) {
  Json::Object object;
  for (const FileRecord& file : files) {
    Json::Array hashes;
    for (const Hash128& hash : file.blocks) hashes.push_back(hash.hex());
    object.push_back({file.name, Json::Object{{"bytes", static_cast<int64_t>(file.bytes)}, {"xxh3_128", hashes}}});
  }
  return object;
}

FileRecord parse_file(const Json::Member& member, const std::string& place) {
  if (!is_plain_file_name(member.key)) throw DamagedError(place, "lists a file name that leads out of its folder");
  const std::string at = place + ": " + Json(member.key).dump();
  const Json *bytes = member.value.find("bytes"), *hashes = member.value.find("xxh3_128");
  if (!bytes || !hashes || member.value.as_object().size() != 2 || !bytes->is_int() || bytes->as_int() < 0 ||
      !hashes->is_array()) {
    throw DamagedError(at, "is not {\"bytes\", \"xxh3_128\"}");
  }
  FileRecord file{member.key, static_cast<uint64_t>(bytes->as_int()), {}};
  const uint64_t blocks = (file.bytes + kChecksumBlock - 1) / kChecksumBlock;
  if (hashes->as_array().size() != blocks) {
    throw DamagedError(at, cat("has ", hashes->as_array().size(), " checksums for ", blocks, " blocks"));
  }
  for (const Json& hash : hashes->as_array()) {
    file.blocks.emplace_back();
    if (!hash.is_string() || !parse_hash(hash.as_string(), file.blocks.back())) {
      throw DamagedError(at, "has a checksum that is not 32 hex digits");
    }
  }
  return file;
}

std::vector<FileRecord> parse_files(const Json& json, const std::string& place) {
  if (!json.is_object()) throw DamagedError(place, "\"files\" is not an object");
  std::vector<FileRecord> files;
  for (const Json::Member& member : json.as_object()) files.push_back(parse_file(member, place));
  std::sort(files.begin(), files.end(), [](const FileRecord& a, const FileRecord& b) { return a.name < b.name; });
  return files;
}

std::vector<std::string> expected_names(int ranks) {
  std::vector<std::string> names{kModelName, kConfigName, kTrainerName};
  for (int r = 0; r < ranks; ++r) names.push_back(optimizer_name(r, ranks));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::string optimizer_name(int rank, int ranks) {
  char name[64];
  std::snprintf(name, sizeof name, "optimizer-%05d-of-%05d.safetensors", rank, ranks);
  return name;
}

FileRecord record_of(const std::string& name, std::string_view content) {
  FileRecord file{name, content.size(), {}};
  for (size_t at = 0; at < content.size(); at += kChecksumBlock) {
    file.blocks.push_back(hash128(content.substr(at, kChecksumBlock)));
  }
  return file;
}

std::string to_text(const std::vector<FileRecord>& files) { return to_json(files).dump(); }

std::vector<FileRecord> parse_files(std::string_view text, const std::string& place) {
  return parse_files(parse_json(text, place, ExitCode::kDamaged, {kMaxRecordBytes, 8}), place);
}

std::string to_text(const CommitRecord& record) {
  const Json json = Json::Object{{"format", kFormat},
                                 {"step", record.step},
                                 {"ranks", record.ranks},
                                 {"block_bytes", static_cast<int64_t>(kChecksumBlock)},
                                 {"files", to_json(record.files)}};
  return json.dump(1) + "\n";
}

CommitRecord parse_record(std::string_view text, const std::string& place) {
  const Json json = parse_json(text, place, ExitCode::kDamaged, {kMaxRecordBytes, 8});
  const auto integer = [&](const char* key, int64_t least, int64_t most) {
    const Json* value = json.find(key);
    if (!value || !value->is_int() || value->as_int() < least || value->as_int() > most) {
      throw DamagedError(place, cat("\"", key, "\" is not an integer from ", least, " to ", most));
    }
    return value->as_int();
  };
  integer("format", kFormat, kFormat);
  integer("block_bytes", kChecksumBlock, kChecksumBlock);
  CommitRecord record;
  record.step = integer("step", 0, INT64_MAX);
  const Json* files = json.find("files");
  if (!files || json.as_object().size() != 5) {
    throw DamagedError(place, "is not {\"format\", \"step\", \"ranks\", \"block_bytes\", \"files\"}");
  }
  record.files = parse_files(*files, place);
  // As many optimizer files as ranks: bounded by what the text itself lists, before any list of that length is made.
  record.ranks = static_cast<int>(integer("ranks", 1, static_cast<int64_t>(record.files.size())));
  const std::vector<std::string> expected = expected_names(record.ranks);
  for (size_t i = 0; i < std::max(expected.size(), record.files.size()); ++i) {
    if (i >= record.files.size() || (i < expected.size() && expected[i] < record.files[i].name)) {
      throw DamagedError(place, "does not list " + expected[i]);
    }
    if (i >= expected.size() || record.files[i].name != expected[i]) {
      throw DamagedError(place, "lists the unknown file " + Json(record.files[i].name).dump());
    }
  }
  return record;
}

}  // namespace sffn
