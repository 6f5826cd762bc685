#include "core/error.h"
#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <unordered_map>

namespace sffn {
namespace {

using Type = SentencePieceModel::Type;

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";     // U+2581, SentencePiece's mark of a space
constexpr std::string_view kBoundaryMark = "\xE2\x96\x85";  // U+2585, which its trainer reserves
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";   // U+FFFD
constexpr size_t kMaxLine = 4096;                           // bytes the trainer sees as one sentence

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    const bool mark = piece.substr(at, kSpaceMark.size()) == kSpaceMark;
    text += mark ? ' ' : piece[at];
    at += mark ? kSpaceMark.size() : 1;
  }
  return text;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string file, const std::string& place) : file_(std::move(file)) {
    const SentencePieceModel model = parse_sentencepiece_model(file_, place);
    const auto status = processor_.LoadFromSerializedProto(file_);
    if (!status.ok()) throw DamagedError(place, "cannot be loaded: " + status.ToString());
    SFFN_CHECK(processor_.GetPieceSize() == static_cast<int>(model.pieces.size()), place, ": pieces");
    if (processor_.eos_id() < 0) throw UsageError(place, "has no end-of-sentence id, which ends each document");
    byte_ids_.fill(processor_.unk_id());
    for (size_t id = 0; id < model.pieces.size(); ++id) add_piece(model.pieces[id], static_cast<int32_t>(id), place);
    bool has_bytes = true;
    for (const int32_t id : byte_ids_) has_bytes = has_bytes && id != processor_.unk_id();
    const bool keeps_spaces = !model.dummy_prefix && !model.removes_spaces;
    lossless_ = has_bytes && keeps_spaces && model.identity;
    splits_lines_ = newline_id_ >= 0 && keeps_spaces;
    hash_ = hash128(file_);
  }

  std::string name() const override { return "spm"; }
  Hash128 hash() const override { return hash_; }
  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  int32_t end_of_document() const override { return processor_.eos_id(); }
  bool lossless() const override { return lossless_; }
  std::string_view model_file() const override { return file_; }
  std::string_view text_of(int32_t id) const override {
    SFFN_CHECK(id >= 0 && id < vocab_size(), "id ", id, " of ", vocab_size());
    return texts_[id];
  }

  // SentencePiece would replace invalid bytes by U+FFFD: they go byte by byte.
  void encode(std::vector<int32_t>& ids, std::string_view text) const override {
    std::vector<int> part;
    while (true) {
      const size_t valid = valid_utf8_prefix(text);
      encode_valid(ids, text.substr(0, valid), part);
      text.remove_prefix(valid);
      if (text.empty()) return;
      push_bytes(ids, text.substr(0, 1));
      text.remove_prefix(1);
    }
  }

 private:
  void add_piece(const SentencePieceModel::Piece& piece, int32_t id, const std::string& place) {
    switch (piece.type) {
      case Type::kControl:
        texts_.emplace_back();
        return;
      case Type::kUnknown:
        texts_.emplace_back(kReplacement);
        return;
      case Type::kByte: {
        unsigned value = 256;
        if (piece.text.size() == 6) value = static_cast<unsigned>(std::strtoul(piece.text.c_str() + 3, nullptr, 16));
        if (value > 255) throw DamagedError(place, cat("piece ", id, " is no byte"));
        byte_ids_[value] = id;
        texts_.emplace_back(1, static_cast<char>(value));
        return;
      }
      default:
        if (piece.type == Type::kUserDefined && piece.text == "\n") newline_id_ = id;
        texts_.push_back(with_spaces(piece.text));
    }
  }

  void push_bytes(std::vector<int32_t>& ids, std::string_view text) const {
    for (const char byte : text) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
  }

  // SentencePiece would read U+2581 as a space and stop at NUL: these too go byte by byte.
  void encode_valid(std::vector<int32_t>& ids, std::string_view text, std::vector<int>& part) const {
    constexpr std::string_view kOddStarts("\0\xE2", 2);
    for (size_t at = 0; (at = text.find_first_of(kOddStarts, at)) != std::string_view::npos;) {
      const bool mark = text.substr(at, kSpaceMark.size()) == kSpaceMark;
      if (!mark && text[at] != '\0') {
        ++at;
        continue;
      }
      const size_t odd = mark ? kSpaceMark.size() : 1;
      encode_plain(ids, text.substr(0, at), part);
      push_bytes(ids, text.substr(at, odd));
      text.remove_prefix(at + odd);
      at = 0;
    }
    encode_plain(ids, text, part);
  }

  // No piece spans a newline that is a user-defined symbol, so lines can be encoded one by one: the library's time
  // grows faster than the length of its input.
  void encode_plain(std::vector<int32_t>& ids, std::string_view text, std::vector<int>& part) const {
    while (!text.empty()) {
      const size_t newline = splits_lines_ ? text.find('\n') : std::string_view::npos;
      const std::string_view line = text.substr(0, newline);
      if (!line.empty()) {
        const auto status = processor_.Encode(line, &part);
        SFFN_CHECK(status.ok(), "SentencePiece: ", status.ToString());
        ids.insert(ids.end(), part.begin(), part.end());
      }
      if (newline == std::string_view::npos) return;
      ids.push_back(newline_id_);
      text.remove_prefix(newline + 1);
    }
  }

  std::string file_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> texts_;  // by id
  std::array<int32_t, 256> byte_ids_;
  int32_t newline_id_ = -1;
  bool lossless_ = false, splits_lines_ = false;
  Hash128 hash_;
};

// Lines of the texts, at most kMaxLine bytes each, without those the trainer cannot take.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::function<std::string_view()>& next_text) : next_text_(next_text) { Next(); }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    do {
      if (rest_.empty()) rest_ = next_text_();
      done_ = rest_.empty();
      if (done_) return;
      const std::string_view line = rest_.substr(0, rest_.find('\n')).substr(0, kMaxLine);
      const size_t whole = line.size() < kMaxLine ? line.size() : std::max<size_t>(1, valid_utf8_prefix(line));
      line_ = line.substr(0, whole);
      rest_.remove_prefix(whole);
      if (!rest_.empty() && rest_.front() == '\n') rest_.remove_prefix(1);
    } while (!usable());
  }

 private:
  bool usable() const {
    return !line_.empty() && valid_utf8_prefix(line_) == line_.size() && line_.find('\0') == std::string::npos &&
           line_.find(kSpaceMark) == std::string::npos && line_.find(kBoundaryMark) == std::string::npos;
  }

  const std::function<std::string_view()>& next_text_;
  std::string_view rest_;
  std::string line_;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string model, const std::string& place) {
  return std::make_unique<SentencePieceTokenizer>(std::move(model), place);
}

std::string train_sentencepiece(int64_t vocab_size, const std::function<std::string_view()>& next_text) {
  const std::string space(kSpaceMark);
  const std::string runs = space + space + "," + space + space + space + space;
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"character_coverage", "0.9995"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"user_defined_symbols", "\n," + runs},
      {"max_sentence_length", std::to_string(kMaxLine)},
      {"num_threads", "1"},  // the model must not depend on the machine
      {"minloglevel", "2"},
  };
  Lines lines(next_text);
  if (lines.done()) throw UsageError("--tokenizer", "there is no text to train a vocabulary on");
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &lines, &model);
  if (!status.ok()) {
    const std::string why = status.ToString();
    const size_t place = why.rfind("] ");  // of the library's source file and line
    throw UsageError("--tokenizer", cat("a vocabulary of ", vocab_size, " cannot be trained on this text: ",
                                        place == std::string::npos ? why : why.substr(place + 2)));
  }
  return model;
}

}  // namespace sffn
