// Text to ids and back.
//   bytes   ids 0-255 are the bytes, 256 ends a document; vocabulary 257
//   spm     SentencePiece (Kudo and Richardson, EMNLP 2018), from a model file or trained here
// A model trained here is lossless: decode(encode(x)) == x for every sequence of bytes.
#pragma once
#include "core/hash.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

struct TokenizerInfo;  // data/corpus.h

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string name() const = 0;  // as in manifest.json
  virtual Hash128 hash() const = 0;      // of all that decides the ids
  virtual int64_t vocab_size() const = 0;
  virtual int32_t end_of_document() const = 0;      // follows each document, never inside encode's result
  virtual bool lossless() const = 0;                // decode(encode(x)) == x for every x
  virtual std::string_view model_file() const = 0;  // contents to be kept beside the data; empty: none is needed
  // Appends the ids of `text`, at most one a byte (and one for a model's dummy prefix). Text that names a control
  // symbol is plain text. Safe for several threads at once.
  virtual void encode(std::vector<int32_t>& ids, std::string_view text) const = 0;
  // The bytes an id stands for: empty for end of document and other control symbols.
  virtual std::string_view text_of(int32_t id) const = 0;

  std::string decode(std::span<const int32_t> ids) const;
};

std::unique_ptr<Tokenizer> make_byte_tokenizer();
// `model` is the contents of a SentencePiece model file. Throws DamagedError at `place`.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string model, const std::string& place);

// BPE of `vocab_size` pieces with byte fallback, digits apart, newline and runs of spaces kept. `next_text` returns
// pieces of text until an empty view. Returns the contents of the model file. Throws UsageError when the text is too
// small for the vocabulary.
std::string train_sentencepiece(int64_t vocab_size, const std::function<std::string_view()>& next_text);

// What --tokenizer says.
struct TokenizerChoice {
  enum class Kind { kBytes, kModelFile, kTrain };
  Kind kind = Kind::kBytes;
  std::string file;        // kModelFile
  int64_t vocab_size = 0;  // kTrain
};
// "bytes" | "spm:FILE" | "spm-train:VOCAB". Throws UsageError naming what is known.
TokenizerChoice parse_tokenizer_choice(const std::string& text);

// The tokenizer that made a corpus. Throws DamagedError where its model file is missing or has another hash.
std::unique_ptr<Tokenizer> load_tokenizer(const TokenizerInfo& info);

}  // namespace sffn
