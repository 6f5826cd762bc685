#include "data/text_reader.h"

#include "core/file.h"

#include <zlib.h>
#include <zstd.h>

#include <vector>

namespace sffn {
namespace {

constexpr size_t kInputBytes = size_t{256} << 10;

class PlainReader final : public TextReader {
 public:
  explicit PlainReader(File file) : file_(std::move(file)) {}
  size_t read(char* out, size_t bytes) override {
    const size_t got = file_.read_some(out, bytes, position_);
    position_ += got;
    return got;
  }
  uint64_t position() const override { return position_; }

 private:
  File file_;
  uint64_t position_ = 0;
};

// Reads the compressed file piece by piece for the two decoders.
class CompressedInput {
 public:
  explicit CompressedInput(File file) : file_(std::move(file)), buffer_(kInputBytes) {}
  bool refill() {  // false at the end of the file
    offset_ += size_;
    size_ = file_.read_some(buffer_.data(), buffer_.size(), offset_);
    return size_ > 0;
  }
  unsigned char* data() { return buffer_.data(); }
  size_t size() const { return size_; }
  uint64_t offset() const { return offset_; }
  [[noreturn]] void fail(uint64_t at, const std::string& why) const {
    throw DamagedError(file_.path(), cat("offset ", at, ": ", why));
  }

 private:
  File file_;
  std::vector<unsigned char> buffer_;
  uint64_t offset_ = 0;
  size_t size_ = 0;
};

class GzipReader final : public TextReader {
 public:
  explicit GzipReader(File file) : input_(std::move(file)) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    SFFN_CHECK(inflateInit2(&stream_, kGzipOnly) == Z_OK, "zlib: no memory");
  }
  ~GzipReader() override { inflateEnd(&stream_); }

  size_t read(char* out, size_t bytes) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(bytes);
    while (stream_.avail_out > 0) {
      if (stream_.avail_in == 0) {
        if (!input_.refill()) {
          if (inside_) input_.fail(position(), "the gzip data end too early");
          break;
        }
        stream_.next_in = input_.data();
        stream_.avail_in = static_cast<uInt>(input_.size());
      }
      const int result = inflate(&stream_, Z_NO_FLUSH);
      inside_ = result != Z_STREAM_END;
      if (result == Z_STREAM_END) {
        inflateReset(&stream_);  // another member may follow
      } else if (result != Z_OK) {
        input_.fail(position(), cat("damaged gzip data", stream_.msg != nullptr ? cat(" (", stream_.msg, ")") : ""));
      }
    }
    return bytes - stream_.avail_out;
  }
  uint64_t position() const override { return input_.offset() + input_.size() - stream_.avail_in; }

 private:
  CompressedInput input_;
  z_stream stream_ = {};
  bool inside_ = true;  // an empty file is no gzip file
};

class ZstdReader final : public TextReader {
 public:
  explicit ZstdReader(File file) : input_(std::move(file)), stream_(ZSTD_createDStream()) {
    SFFN_CHECK(stream_ != nullptr, "zstd: no memory");
  }
  ~ZstdReader() override { ZSTD_freeDStream(stream_); }

  size_t read(char* out, size_t bytes) override {
    ZSTD_outBuffer to = {out, bytes, 0};
    while (to.pos < to.size) {
      if (from_.pos == from_.size && !flushing_) {
        if (!input_.refill()) {
          if (inside_) input_.fail(position(), "the Zstandard data end too early");
          break;
        }
        from_ = {input_.data(), input_.size(), 0};
      }
      const size_t result = ZSTD_decompressStream(stream_, &to, &from_);
      if (ZSTD_isError(result)) {
        input_.fail(position(), cat("damaged Zstandard data (", ZSTD_getErrorName(result), ")"));
      }
      inside_ = result != 0;
      flushing_ = inside_ && to.pos == to.size;  // the decoder may hold more text than fitted
    }
    return to.pos;
  }
  uint64_t position() const override { return input_.offset() + from_.pos; }

 private:
  CompressedInput input_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer from_ = {nullptr, 0, 0};
  bool inside_ = true, flushing_ = false;
};

bool ends_with(const std::string& name, std::string_view end) {
  return name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::unique_ptr<TextReader> open_text(const std::string& path) {
  File file = File::open(path, File::Mode::kRead, ExitCode::kUsage);
  if (ends_with(path, ".gz")) return std::make_unique<GzipReader>(std::move(file));
  if (ends_with(path, ".zst")) return std::make_unique<ZstdReader>(std::move(file));
  return std::make_unique<PlainReader>(std::move(file));
}

bool is_text_name(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  for (const char* kind : {".txt", ".md"}) {
    for (const char* packing : {"", ".gz", ".zst"}) {
      if (ends_with(name, cat(kind, packing))) return true;
    }
  }
  return false;
}

}  // namespace sffn
