#include "data/sentencepiece_model.h"

#include "core/error.h"

namespace sffn {
namespace {

// One level of a protocol buffer: fields in order, each a number or a run of bytes.
class Message {
 public:
  Message(std::string_view bytes, const std::string& place) : bytes_(bytes), place_(place) {}

  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t tag = varint();
    field = tag >> 3;
    number = 0;
    text = {};
    switch (tag & 7) {
      case 0:
        number = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        text = take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        fail();
    }
    return true;
  }

  uint64_t field = 0, number = 0;
  std::string_view text;

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    fail();
  }
  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) fail();
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  [[noreturn]] void fail() const {
    throw DamagedError(place_, cat("is not a SentencePiece model (damaged at offset ", at_, " of a message of ",
                                   bytes_.size(), " bytes)"));
  }

  std::string_view bytes_;
  const std::string& place_;
  size_t at_ = 0;
};

SentencePieceModel::Piece parse_piece(std::string_view bytes, const std::string& place) {
  SentencePieceModel::Piece piece;
  for (Message message(bytes, place); message.next();) {
    if (message.field == 1) piece.text = message.text;
    if (message.field == 3) piece.type = static_cast<SentencePieceModel::Type>(message.number);
  }
  return piece;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view file, const std::string& place) {
  SentencePieceModel model;
  for (Message message(file, place); message.next();) {
    if (message.field == 1) model.pieces.push_back(parse_piece(message.text, place));
    if (message.field != 3) continue;
    for (Message normaliser(message.text, place); normaliser.next();) {
      if (normaliser.field == 2) model.identity = normaliser.text.empty();
      if (normaliser.field == 3) model.dummy_prefix = normaliser.number != 0;
      if (normaliser.field == 4) model.removes_spaces = normaliser.number != 0;
    }
  }
  if (model.pieces.empty()) throw DamagedError(place, "is not a SentencePiece model: it has no piece");
  return model;
}

}  // namespace sffn
