#include "data/shard_writer.h"

#include "data/token_file.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace sffn {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

// Checksums of a finished file, of each block and of the whole, in one pass.
void hash_file(const std::string& path, ShardRecord& record) {
  const File file = File::open(path, File::Mode::kRead);
  std::vector<char> block(kChecksumBlock);
  HashStream whole;
  for (uint64_t at = 0; const size_t got = file.read_some(block.data(), block.size(), at); at += got) {
    record.block_checksums.push_back(hash128(block.data(), got));
    whole.update(block.data(), got);
  }
  record.checksum = whole.digest();
}

// Appends ids and returns the largest, a negative one as a large one.
template <class T>
uint32_t pack(std::vector<unsigned char>& out, std::span<const int32_t> ids) {
  const size_t first = out.size();
  out.resize(first + ids.size() * sizeof(T));
  uint32_t largest = 0;
  const int32_t* from = ids.data();
  const size_t count = ids.size();
  unsigned char* to = out.data() + first;
#pragma omp simd reduction(max : largest)
  for (size_t i = 0; i < count; ++i) {
    const T id = static_cast<T>(from[i]);
    largest = std::max(largest, static_cast<uint32_t>(from[i]));
    std::memcpy(to + i * sizeof(T), &id, sizeof id);
  }
  return largest;
}

}  // namespace

ShardWriter::ShardWriter(std::string folder, std::string side, int64_t vocab_size, int64_t shard_tokens,
                         SideProgress done, std::function<void()> on_complete)
    : folder_(std::move(folder)),
      side_(std::move(side)),
      vocab_size_(vocab_size),
      shard_tokens_(shard_tokens),
      bytes_per_token_(token_bytes(vocab_size)),
      progress_(std::move(done)),
      on_complete_(std::move(on_complete)) {}

ShardWriter::~ShardWriter() {
  if (open_) unlink(file_.path().c_str());
}

void ShardWriter::begin_shard() {
  char name[32];
  std::snprintf(name, sizeof name, "-%06zu.bin", progress_.record.shards.size());
  shard_ = {};
  shard_.file = side_ + name;
  file_ = File::open(folder_ + "/" + shard_.file + ".tmp", File::Mode::kTruncate);
  open_ = true;
  shard_counts_.assign(static_cast<size_t>(vocab_size_), 0);
  buffer_.assign(kShardHeaderBytes, 0);  // the count is known at the end
}

void ShardWriter::flush() {
  file_.write(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void ShardWriter::put(std::span<const int32_t> ids) {
  if (!open_) begin_shard();
  const uint32_t largest = bytes_per_token_ == 2 ? pack<uint16_t>(buffer_, ids) : pack<uint32_t>(buffer_, ids);
  SFFN_CHECK(largest < vocab_size_, "id ", largest, " of a vocabulary of ", vocab_size_);
  for (const int32_t id : ids) ++shard_counts_[static_cast<size_t>(id)];
  shard_.tokens += static_cast<int64_t>(ids.size());
  if (buffer_.size() >= kBufferBytes) flush();
}

void ShardWriter::add(std::span<const int32_t> ids, int64_t text_bytes) {
  ids = ids.subspan(static_cast<size_t>(progress_.cut_tokens));
  if (open_ && shard_.tokens + static_cast<int64_t>(ids.size()) > shard_tokens_) complete_shard();
  while (static_cast<int64_t>(ids.size()) > shard_tokens_) {
    put(ids.first(static_cast<size_t>(shard_tokens_)));
    ids = ids.subspan(static_cast<size_t>(shard_tokens_));
    progress_.cut_tokens += shard_tokens_;
    complete_shard();
  }
  put(ids);
  progress_.cut_tokens = 0;
  ++shard_.documents;
  shard_.bytes += text_bytes;
}

void ShardWriter::complete_shard() {
  flush();
  const std::vector<unsigned char> header = encode_shard_header({shard_.tokens, bytes_per_token_});
  file_.write_at(header.data(), header.size(), 0);
  file_.sync();
  file_.close();
  const std::string temporary = file_.path(), path = folder_ + "/" + shard_.file;
  hash_file(temporary, shard_);
  rename_path(temporary, path);
  open_ = false;
  sync_directory(folder_);
  SideRecord& record = progress_.record;
  record.documents += shard_.documents;
  record.tokens += shard_.tokens;
  record.bytes += shard_.bytes;
  record.token_counts.resize(shard_counts_.size());
  for (size_t id = 0; id < shard_counts_.size(); ++id) record.token_counts[id] += shard_counts_[id];
  record.shards.push_back(std::move(shard_));
  on_complete_();
}

void ShardWriter::finish() {
  if (open_) complete_shard();
}

}  // namespace sffn
