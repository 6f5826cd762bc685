#include "data/documents.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace sffn {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

// Start of the character that a cut at `at` would split, `at` where it would split none.
size_t character_boundary(std::string_view text, size_t at) {
  constexpr size_t kLongest = 4;
  for (size_t back = 0; back < kLongest && back < at; ++back) {
    const bool continues = (static_cast<unsigned char>(text[at - back]) & 0xC0) == 0x80;
    if (!continues) return at - back;
  }
  return at;  // no UTF-8
}

}  // namespace

size_t cut_length(std::string_view text, size_t& no_blank) {
  const std::string_view window = text.substr(0, kMaxDocumentBytes);
  const size_t first_newline = window.find('\n', kMinCutBytes);
  const size_t from = no_blank > kMinCutBytes ? window.find('\n', no_blank) : first_newline;
  no_blank = 0;
  for (size_t at = from; at != std::string_view::npos; at = window.find('\n', at + 1)) {
    const size_t next = at + 1 < window.size() && window[at + 1] == '\r' ? at + 2 : at + 1;
    if (next < window.size() && window[next] == '\n') return next + 1;
  }
  size_t length = text.size();
  if (text.size() > kMinCutBytes && first_newline != std::string_view::npos) {
    length = first_newline + 1;
  } else if (text.size() > kMaxDocumentBytes) {
    length = character_boundary(text, kMaxDocumentBytes);
  }
  if (window.size() >= length + 2) no_blank = window.size() - 2 - length;
  return length;
}

DocumentReader::DocumentReader(const std::string& path) : reader_(open_text(path)), buffer_(kBufferBytes) {}

void DocumentReader::fill() {
  if (at_end_ || end_ - begin_ > kMaxDocumentBytes) return;
  std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  while (end_ < buffer_.size()) {
    const size_t got = reader_->read(buffer_.data() + end_, buffer_.size() - end_);
    end_ += got;
    at_end_ = got == 0;
    if (at_end_) return;
  }
}

bool DocumentReader::next(std::string_view& text) {
  fill();
  text = std::string_view(buffer_.data() + begin_, end_ - begin_);
  if (text.empty()) return std::exchange(first_, false);
  first_ = false;
  if (text.size() > kMaxDocumentBytes) cutting_ = true;
  if (cutting_) text = text.substr(0, cut_length(text, no_blank_));
  begin_ += text.size();
  return true;
}

}  // namespace sffn
