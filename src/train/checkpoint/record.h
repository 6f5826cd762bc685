// checksums.json, the commit record: a step folder is a checkpoint when this file parses and all it lists is there.
#pragma once
#include "core/hash.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

constexpr uint64_t kChecksumBlock = uint64_t{8} << 20;  // bytes that share one XXH3-128
constexpr const char* kRecordName = "checksums.json";
constexpr const char* kModelName = "model.safetensors";
constexpr const char* kConfigName = "config.json";
constexpr const char* kTrainerName = "trainer.json";
constexpr size_t kMaxRecordBytes = size_t{64} << 20;

struct FileRecord {
  std::string name;
  uint64_t bytes = 0;
  std::vector<Hash128> blocks;  // of each kChecksumBlock bytes, the last one shorter
};

struct CommitRecord {
  int64_t step = 0;
  int ranks = 0;                  // as many optimizer files
  std::vector<FileRecord> files;  // sorted by name
};

std::string optimizer_name(int rank, int ranks);  // optimizer-00003-of-00008.safetensors
FileRecord record_of(const std::string& name, std::string_view content);

std::string to_text(const CommitRecord& record);
// Throws an Error of kDamaged: the text must list exactly the files of a checkpoint, each with its blocks.
CommitRecord parse_record(std::string_view text, const std::string& place);

std::string to_text(const std::vector<FileRecord>& files);  // how a rank tells rank 0 what it wrote
std::vector<FileRecord> parse_files(std::string_view text, const std::string& place);

}  // namespace sffn
