#include "data/token_file.h"

#include <algorithm>
#include <cstring>

namespace sffn {
namespace {

constexpr int32_t kMagic16 = 20240520, kVersion16 = 1;
constexpr int32_t kMagic32 = 20240801, kVersion32 = 7;
constexpr uint64_t kSampleBytes = 4096;
constexpr uint64_t kSamples = 64;

int32_t int32_at(const unsigned char* bytes) {
  int32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace

std::vector<unsigned char> encode_shard_header(const ShardHeader& header) {
  SFFN_CHECK(header.tokens >= 0 && header.tokens <= kMaxShardTokens, "a shard of ", header.tokens, " tokens");
  const bool wide = header.bytes_per_token == 4;
  const int32_t fields[3] = {wide ? kMagic32 : kMagic16, wide ? kVersion32 : kVersion16,
                             static_cast<int32_t>(header.tokens)};
  std::vector<unsigned char> bytes(kShardHeaderBytes, 0);
  std::memcpy(bytes.data(), fields, sizeof fields);
  return bytes;
}

TokenFile::TokenFile(const std::string& path, const ShardRecord* record, int64_t vocab_size)
    : file_(path), vocab_size_(vocab_size), has_record_(record != nullptr) {
  check_header();
  if (record == nullptr) return;
  if (record->tokens != header_.tokens) {
    throw DamagedError(
        path, cat("offset 8: the header counts ", header_.tokens, " tokens, ", kManifestName, " ", record->tokens));
  }
  const uint64_t blocks = (file_.size() + kChecksumBlock - 1) / kChecksumBlock;
  if (record->block_checksums.size() != blocks) {
    throw DamagedError(path, cat("is ", file_.size(), " bytes; ", kManifestName, " has checksums of ",
                                 record->block_checksums.size(), " blocks of 8 MiB"));
  }
  checksum_ = record->checksum;
  block_checksums_ = record->block_checksums;
  verified_.assign(block_checksums_.size(), false);
}

void TokenFile::check_header() {
  if (file_.size() < kShardHeaderBytes) {
    throw DamagedError(path(), cat("is ", file_.size(), " bytes; a shard begins with a header of ", kShardHeaderBytes));
  }
  const int32_t magic = int32_at(file_.data()), version = int32_at(file_.data() + 4),
                count = int32_at(file_.data() + 8);
  if (magic != kMagic16 && magic != kMagic32) {
    throw DamagedError(path(), cat("offset 0: magic ", magic, "; token shards have ", kMagic16, " or ", kMagic32));
  }
  const int32_t expected = magic == kMagic16 ? kVersion16 : kVersion32;
  if (version != expected) {
    throw DamagedError(path(), cat("offset 4: version ", version, "; magic ", magic, " has version ", expected));
  }
  if (count < 0) throw DamagedError(path(), cat("offset 8: a count of ", count, " tokens"));
  header_ = {count, magic == kMagic16 ? 2 : 4};
  const uint64_t size = kShardHeaderBytes + static_cast<uint64_t>(count) * header_.bytes_per_token;
  if (file_.size() != size) {
    throw DamagedError(path(), cat("is ", file_.size(), " bytes; its header at offset 8 counts ", count,
                                   " tokens, which makes ", size));
  }
}

bool TokenFile::block_is_good(uint64_t block) const {
  const uint64_t begin = block * kChecksumBlock;
  const uint64_t length = std::min(kChecksumBlock, file_.size() - begin);
  return hash128(file_.data() + begin, length) == block_checksums_[block];
}

void TokenFile::verify_blocks(uint64_t begin_byte, uint64_t end_byte) const {
  if (!has_record_) return;
  for (uint64_t block = begin_byte / kChecksumBlock; block * kChecksumBlock < end_byte; ++block) {
    if (verified_[block]) continue;
    if (!block_is_good(block)) {
      throw DamagedError(path(),
                         cat("offset ", block * kChecksumBlock, ": the checksum of this block of 8 MiB is not that of ",
                             kManifestName, "; restore the file or prepare the data again"));
    }
    verified_[block] = true;
  }
}

template <class T>
void TokenFile::copy(int32_t* ids, int64_t begin, int64_t count) const {
  const unsigned char* from = file_.data() + kShardHeaderBytes + begin * static_cast<int64_t>(sizeof(T));
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) {
    T id;
    std::memcpy(&id, from + i * static_cast<int64_t>(sizeof(T)), sizeof id);
    largest = std::max<uint32_t>(largest, id);
    ids[i] = static_cast<int32_t>(id);
  }
  if (largest < vocab_size_) return;
  int64_t bad = 0;
  while (id_at(begin + bad) < vocab_size_) ++bad;
  throw DamagedError(path(), cat("offset ", kShardHeaderBytes + (begin + bad) * sizeof(T), ": id ", id_at(begin + bad),
                                 " is not below the vocabulary size ", vocab_size_));
}

int64_t TokenFile::id_at(int64_t index) const {
  const unsigned char* at = file_.data() + kShardHeaderBytes + index * header_.bytes_per_token;
  if (header_.bytes_per_token == 2) return at[0] | at[1] << 8;
  return static_cast<uint32_t>(int32_at(at));
}

void TokenFile::read(int32_t* ids, int64_t begin, int64_t count) const {
  SFFN_CHECK(begin >= 0 && count >= 0 && begin <= tokens() - count, path(), ": tokens [", begin, ", ", begin + count,
             ") of ", tokens());
  if (count == 0) return;
  const int64_t width = header_.bytes_per_token;
  verify_blocks(kShardHeaderBytes + begin * width, kShardHeaderBytes + (begin + count) * width);
  if (width == 2) {
    copy<uint16_t>(ids, begin, count);
  } else {
    copy<uint32_t>(ids, begin, count);
  }
}

Hash128 TokenFile::fingerprint() const {
  if (has_record_) return checksum_;
  HashStream hash;
  const uint64_t size = file_.size();
  hash.update(&size, sizeof size);
  hash.update(file_.data(), kShardHeaderBytes);
  for (uint64_t i = 0; i < kSamples; ++i) {
    const uint64_t begin = (size - 1) / kSamples * i;
    hash.update(file_.data() + begin, std::min(kSampleBytes, size - begin));
  }
  const uint64_t tail = std::min(kSampleBytes, size);
  hash.update(file_.data() + size - tail, tail);
  return hash.digest();
}

std::vector<std::string> TokenFile::find_faults() const {
  std::vector<std::string> faults;
  if (has_record_) {
    for (uint64_t block = 0; block < block_checksums_.size(); ++block) {
      if (block_is_good(block)) continue;
      faults.push_back(cat(path(), ": offset ", block * kChecksumBlock, ": wrong checksum of this block of 8 MiB"));
    }
    if (faults.empty() && hash128(file_.data(), file_.size()) != checksum_) {
      faults.push_back(cat(path(), ": wrong checksum of the whole file"));
    }
  }
  int64_t wrong = 0, first = 0;
  for (int64_t i = tokens() - 1; i >= 0; --i) {
    if (id_at(i) < vocab_size_) continue;
    ++wrong;
    first = i;
  }
  if (wrong > 0) {
    faults.push_back(cat(path(), ": offset ", kShardHeaderBytes + first * header_.bytes_per_token, ": id ",
                         id_at(first), " is not below the vocabulary size ", vocab_size_,
                         wrong > 1 ? cat(" (first of ", wrong, ")") : ""));
  }
  return faults;
}

}  // namespace sffn
