// The documents of one text file. A file is one document; text over 256 KiB is cut: a document ends after the first
// blank line that begins 16 KiB or more into it, else after the first newline from there, else before the last whole
// UTF-8 character. Each is searched for within the first 256 KiB of the document.
#pragma once
#include "data/text_reader.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

constexpr size_t kMaxDocumentBytes = size_t{256} << 10;
constexpr size_t kMinCutBytes = size_t{16} << 10;

class DocumentReader {
 public:
  explicit DocumentReader(const std::string& path);

  // The next document, valid until the next call; false at the end. A file without text has one empty document.
  bool next(std::string_view& text);
  uint64_t position() const { return reader_->position(); }  // bytes of the file consumed

 private:
  void fill();  // until a whole longest document and one byte are there, or the end

  std::unique_ptr<TextReader> reader_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
  size_t no_blank_ = 0;
  bool at_end_ = false, cutting_ = false, first_ = true;
};

// Length of the first document of `text`, the rest of a text that is being cut. No blank line begins in the first
// `no_blank` bytes; set to what is then known of the text behind the document, so that no byte is searched twice.
size_t cut_length(std::string_view text, size_t& no_blank);

}  // namespace sffn
