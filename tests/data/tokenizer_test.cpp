#include "data/tokenizer.h"

#include "core/random.h"
#include "data/corpus.h"
#include "data/fixture.h"
#include "data/sentencepiece_model.h"
#include "data/utf8.h"
#include "support/catch.h"

#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

// English-like text: words by a skewed draw, sentences, paragraphs, indented lines.
std::string sample_text(size_t words) {
  static const char* kWords[] = {"the",    "of",    "and",    "a",     "model", "training",
                                 "tokens", "layer", "sparse", "naïve", "2024",  "café"};
  const RandomKey key = random_key(3, RandomSite::kRandomTokens, 0, 0);
  std::string text;
  for (size_t i = 0; i < words; ++i) {
    const double u = random_uniform(key, i);
    text += kWords[static_cast<size_t>(u * u * 12)];
    text += i % 97 == 96 ? "\n\n" : i % 13 == 12 ? ".\n    " : " ";
  }
  return text;
}

const std::string& trained_model() {
  static const std::string model = [] {
    const std::string text = sample_text(20000);
    bool given = false;
    return train_sentencepiece(320, [&]() -> std::string_view {
      return std::exchange(given, true) ? std::string_view() : std::string_view(text);
    });
  }();
  return model;
}

bool keeps(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids;
  tokenizer.encode(ids, text);
  for (const int32_t id : ids) {
    if (id == tokenizer.end_of_document() || id < 0 || id >= tokenizer.vocab_size()) return false;
  }
  return tokenizer.decode(ids) == text && ids.size() <= text.size();
}

std::string random_bytes(uint64_t seed, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += static_cast<char>(random_bits(random_key(seed, RandomSite::kRandomTokens, 0, 1), i));
  }
  return text;
}

}  // namespace

// Kills: bytes above 127 as negative ids, or a vocabulary without the end of document.
TEST_CASE("the bytes tokenizer maps each byte to its value and ends documents with 256", "[data]") {
  const auto tokenizer = make_byte_tokenizer();
  std::vector<int32_t> ids = {7};
  tokenizer->encode(ids, std::string("\0a\xff", 3));
  CHECK(ids == std::vector<int32_t>{7, 0, 97, 255});
  CHECK(tokenizer->vocab_size() == 257);
  CHECK(tokenizer->end_of_document() == 256);
  CHECK(tokenizer->text_of(256).empty());
  CHECK(keeps(*tokenizer, random_bytes(1, 1000)));
}

// Kills: a dummy prefix, collapsed spaces, lost newlines, a normaliser, NUL as an end, U+2581 as a space.
TEST_CASE("a trained SentencePiece model keeps every text", "[data]") {
  const auto tokenizer = make_sentencepiece_tokenizer(trained_model(), "model");
  CHECK(tokenizer->lossless());
  CHECK(tokenizer->vocab_size() == 320);
  CHECK(keeps(*tokenizer, sample_text(3000)));
  const std::vector<std::string> texts = {"",
                                          " ",
                                          "   a  b\n\n\n  c \t\r\n",
                                          "\n",
                                          "x\n",
                                          " \n ",
                                          "ﬁ ① ℌ Å",
                                          "日本語 русский 🙂",
                                          "\xE2\x96\x81 a\xE2\x96\x81",
                                          "\xE2\x96\x85",
                                          "\xE2\x96",
                                          "\xff\xfe",
                                          "a\xC0\xAF",
                                          "\xED\xA0\x80",
                                          "<s></s><unk><0x41>",
                                          std::string("a\0b\0\0", 5),
                                          std::string(5000, ' '),
                                          std::string(3000, '\xff')};
  for (const std::string& text : texts) {
    INFO(text);
    CHECK(keeps(*tokenizer, text));
  }
  for (uint64_t seed = 0; seed < 50; ++seed) CHECK(keeps(*tokenizer, random_bytes(seed, 40)));
}

// Kills: a model that has learnt nothing beyond single bytes.
TEST_CASE("a trained model shortens the text it was trained on", "[data]") {
  const auto tokenizer = make_sentencepiece_tokenizer(trained_model(), "model");
  std::vector<int32_t> ids;
  const std::string text = sample_text(3000);
  tokenizer->encode(ids, text);
  CHECK(ids.size() < text.size() / 2);
}

// Kills: encoding line by line where a piece could span the newline.
TEST_CASE("a text encodes as the lines it is made of", "[data]") {
  const auto tokenizer = make_sentencepiece_tokenizer(trained_model(), "model");
  std::vector<int32_t> whole, parts;
  tokenizer->encode(whole, "the model\n  of tokens\n\nand");
  for (const char* part : {"the model", "\n", "  of tokens", "\n", "\n", "and"}) tokenizer->encode(parts, part);
  CHECK(whole == parts);
}

// Kills: the library's crash or silence on a file that is no model.
TEST_CASE("a damaged model is damaged data", "[data]") {
  const std::string& good = trained_model();
  CHECK(caught([] { make_sentencepiece_tokenizer("", "m"); }).code == 3);
  CHECK(caught([] { make_sentencepiece_tokenizer("hello, world", "m"); }).code == 3);
  for (const size_t length : {size_t{1}, size_t{2}, good.size() / 2, good.size() - 1}) {
    const Caught error = caught([&] { parse_sentencepiece_model(good.substr(0, length), "m"); });
    INFO(length);
    CHECK((error.code == 3 || error.code == 0));
  }
  CHECK(caught([&] {
          parse_sentencepiece_model(std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11), "m");
        }).code == 3);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::string bad = good;
    bad[random_bits(random_key(seed, RandomSite::kRandomTokens, 0, 2), 0) % bad.size()] ^= 0x55;
    const Caught error = caught([&] { parse_sentencepiece_model(bad, "m"); });
    CHECK((error.code == 3 || error.code == 0));
  }
}

// Kills: a vocabulary that cannot be trained passing as a smaller one.
TEST_CASE("a text too small for the vocabulary is a usage error", "[data]") {
  bool given = false;
  const auto error = caught([&] {
    train_sentencepiece(5000,
                        [&]() -> std::string_view { return std::exchange(given, true) ? "" : "a few words only"; });
  });
  CHECK(error.code == 2);
  CHECK(error.has("5000"));
  CHECK(caught([] { train_sentencepiece(300, [] { return std::string_view(); }); }).code == 2);
}

// Kills: unknown tokenizers taken for bytes.
TEST_CASE("a tokenizer choice is strict and names what is known", "[data]") {
  CHECK(parse_tokenizer_choice("bytes").kind == TokenizerChoice::Kind::kBytes);
  CHECK(parse_tokenizer_choice("spm:a:b").file == "a:b");
  CHECK(parse_tokenizer_choice("spm-train:8192").vocab_size == 8192);
  for (const char* bad : {"", "byte", "bytes:", "spm", "spm:", "gpt2:dir", "hf:tokenizer.json"}) {
    const Caught error = caught([&] { parse_tokenizer_choice(bad); });
    CHECK(error.code == 2);
    CHECK(error.has("bytes, spm:FILE and spm-train:VOCAB"));
  }
  for (const char* bad :
       {"spm-train:", "spm-train:8k", "spm-train:-5", "spm-train:299", "spm-train:1000001", "spm-train:1e3"}) {
    CHECK(caught([&] { parse_tokenizer_choice(bad); }).code == 2);
  }
}

// Kills: a tokenizer that is loaded without comparing its hash.
TEST_CASE("the tokenizer of a corpus is loaded by its hash", "[data]") {
  const TempFolder folder;
  write_text(folder / "tokenizer.model", trained_model());
  const auto tokenizer = make_sentencepiece_tokenizer(trained_model(), "m");
  TokenizerInfo info{"spm", tokenizer->hash(), folder / "tokenizer.model", 320, tokenizer->end_of_document()};
  CHECK(load_tokenizer(info)->hash() == tokenizer->hash());
  info.hash.low ^= 1;
  CHECK(caught([&] { load_tokenizer(info); }).code == 3);
  CHECK(caught([&] { load_tokenizer({"bytes", hash128("other"), "", 257, 256}); }).code == 3);
  CHECK(caught([&] { load_tokenizer({"gpt2", {}, "", 50257, 50256}); }).code == 3);
}

// Kills: overlong forms, surrogates and values above U+10FFFF passing; the fast path skipping a bad byte.
TEST_CASE("invalid UTF-8 is counted byte by byte", "[data]") {
  struct Case {
    std::string text;
    size_t invalid;
  };
  const std::vector<Case> cases = {{"", 0},
                                   {"plain ascii text", 0},
                                   {"é\xE2\x82\xAC\xF0\x9F\x99\x82", 0},
                                   {"\x80", 1},
                                   {"\xC0\xAF", 2},
                                   {"\xE0\x80\x80", 3},
                                   {"\xED\xA0\x80", 3},
                                   {"\xF4\x90\x80\x80", 4},
                                   {"\xF5\x80", 2},
                                   {"\xE2\x82", 2},
                                   {"12345678\xff"
                                    "12345678",
                                    1},
                                   {"1234567\xC3\xA9"
                                    "1234567\xC3",
                                    1},
                                   {"\xC3\xC3\xA9", 1}};
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK(count_invalid_utf8(c.text) == c.invalid);
  }
  CHECK(valid_utf8_prefix("ab\xC3\xA9\xC3") == 4);
}
