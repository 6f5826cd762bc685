// The parts of a SentencePiece model file that its library does not tell: types of pieces and what the normaliser does.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

struct SentencePieceModel {
  enum class Type : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    Type type = Type::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  bool identity = true;       // no table of replacements
  bool dummy_prefix = true;
  bool removes_spaces = true;
};

// Reads the protocol buffer: field 1 pieces {1 text, 3 type}, field 3 normaliser {2 table, 3 dummy prefix, 4 removes
// spaces}. Throws DamagedError at `place`, with the offset, for what is not one.
SentencePieceModel parse_sentencepiece_model(std::string_view file, const std::string& place);

}  // namespace sffn
