#include "data/tokenizer.h"

#include "core/file.h"
#include "data/corpus.h"

#include <array>
#include <charconv>

namespace sffn {
namespace {

constexpr size_t kMaxModelBytes = size_t{256} << 20;
constexpr int64_t kMinTrainedVocabulary = 300;  // 256 bytes, 3 control symbols, newline, runs of spaces and some text
constexpr int64_t kMaxTrainedVocabulary = 1'000'000;
constexpr char kKnown[] = "bytes, spm:FILE and spm-train:VOCAB are known";

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_[i] = static_cast<char>(i);
  }
  std::string name() const override { return "bytes"; }
  Hash128 hash() const override { return hash128("bytes 257"); }
  int64_t vocab_size() const override { return 257; }
  int32_t end_of_document() const override { return 256; }
  bool lossless() const override { return true; }
  std::string_view model_file() const override { return {}; }
  void encode(std::vector<int32_t>& ids, std::string_view text) const override {
    const size_t first = ids.size();
    ids.resize(first + text.size());
    int32_t* to = ids.data() + first;
    const char* from = text.data();
    const size_t count = text.size();
#pragma omp simd
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<unsigned char>(from[i]);
  }
  std::string_view text_of(int32_t id) const override {
    SFFN_CHECK(id >= 0 && id <= 256, "id ", id, " of 257");
    return id == 256 ? std::string_view() : std::string_view(&bytes_[id], 1);
  }

 private:
  std::array<char, 256> bytes_;
};

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += text_of(id);
  return text;
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

TokenizerChoice parse_tokenizer_choice(const std::string& text) {
  TokenizerChoice choice;
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon), value = colon == std::string::npos ? "" : text.substr(colon + 1);
  if (text == "bytes") return choice;
  if (kind == "spm" && !value.empty()) {
    choice.kind = TokenizerChoice::Kind::kModelFile;
    choice.file = value;
    return choice;
  }
  if (kind != "spm-train") throw UsageError("--tokenizer", cat("\"", text, "\" is not known; ", kKnown));
  choice.kind = TokenizerChoice::Kind::kTrain;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), choice.vocab_size);
  if (error != std::errc() || end != value.data() + value.size() || choice.vocab_size < kMinTrainedVocabulary ||
      choice.vocab_size > kMaxTrainedVocabulary) {
    throw UsageError("--tokenizer", cat("\"", text, "\": a vocabulary of ", kMinTrainedVocabulary, " to ",
                                        kMaxTrainedVocabulary, " pieces can be trained"));
  }
  return choice;
}

std::unique_ptr<Tokenizer> load_tokenizer(const TokenizerInfo& info) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (info.name == "bytes") {
    tokenizer = make_byte_tokenizer();
  } else if (info.name == "spm" && !info.path.empty()) {
    tokenizer = make_sentencepiece_tokenizer(read_file(info.path, kMaxModelBytes, ExitCode::kDamaged), info.path);
  } else {
    throw DamagedError(kManifestName, "names a tokenizer that this version does not know; bytes and spm are known");
  }
  if (tokenizer->hash() != info.hash || tokenizer->vocab_size() != info.vocab_size ||
      tokenizer->end_of_document() != info.end_of_document) {
    throw DamagedError(info.path.empty() ? kManifestName : info.path,
                       cat("is not the tokenizer the data was made with; that has the hash ", info.hash.hex()));
  }
  return tokenizer;
}

}  // namespace sffn
