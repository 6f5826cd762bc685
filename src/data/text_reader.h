// The text of one file as a stream: plain, gzip (.gz) or Zstandard (.zst).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sffn {

class TextReader {
 public:
  virtual ~TextReader() = default;
  // Up to `bytes` bytes of text; 0 only at its end. Throws DamagedError naming file and offset for a damaged or cut
  // compressed file.
  virtual size_t read(char* out, size_t bytes) = 0;
  // Bytes of the file consumed so far.
  virtual uint64_t position() const = 0;
};

// Throws UsageError for what cannot be opened.
std::unique_ptr<TextReader> open_text(const std::string& path);

// Whether a file is text to prepare by its name: .txt .md, or one of them .gz or .zst.
bool is_text_name(const std::string& path);
constexpr char kTextNames[] = ".txt .md .txt.gz .md.gz .txt.zst .md.zst";

}  // namespace sffn
