#include "data/documents.h"

#include "core/random.h"
#include "data/fixture.h"
#include "data/inputs.h"
#include "support/catch.h"

#include <zlib.h>
#include <zstd.h>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr size_t K = 1024;

std::vector<std::string> documents_of(const std::string& path) {
  std::vector<std::string> documents;
  DocumentReader reader(path);
  for (std::string_view text; reader.next(text);) documents.emplace_back(text);
  return documents;
}

std::string gzip(const std::string& text) {
  z_stream stream = {};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

// Of a text that nothing is known of.
size_t first_cut(std::string_view text) {
  size_t no_blank = 0;
  return cut_length(text, no_blank);
}

std::string noise(size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) {
    text += static_cast<char>('a' + random_bits(random_key(5, RandomSite::kRandomTokens, 0, 0), i) % 26);
  }
  return text;
}

}  // namespace

// Kills: cutting a text of exactly 256 KiB, or not cutting one byte more.
TEST_CASE("a file is one document up to 256 KiB and is cut beyond", "[data]") {
  const TempFolder folder;
  std::string text;
  while (text.size() < 256 * K) text += "a line of some text\n\n";
  text.resize(256 * K);
  write_text(folder / "a.txt", text);
  CHECK(documents_of(folder / "a.txt") == std::vector<std::string>{text});
  write_text(folder / "a.txt", text + "x");
  const auto documents = documents_of(folder / "a.txt");
  CHECK(documents.size() > 10);
  std::string joined;
  for (const std::string& document : documents) joined += document;
  CHECK(joined == text + "x");
  write_text(folder / "empty.txt", "");
  CHECK(documents_of(folder / "empty.txt") == std::vector<std::string>{""});
}

// Kills: each preference of the cut rule, in isolation, and each of its limits by one byte.
TEST_CASE("a document ends at the first blank line after 16 KiB, else a newline, else a whole character", "[data]") {
  const std::string x16(16 * K, 'x'), tail(400 * K, 'y');
  CHECK(first_cut(x16 + "a\nb\n\nc" + tail) == 16 * K + 5);
  CHECK(first_cut(x16 + "a\nb\r\n\r\nc" + tail) == 16 * K + 7);
  CHECK(first_cut(x16 + "\n\nc" + tail) == 16 * K + 2);
  CHECK(first_cut(std::string(16 * K - 1, 'x') + "\n\n" + tail) == 16 * K + 1);  // the blank line began too early
  CHECK(first_cut(x16 + "abc\nd" + tail) == 16 * K + 4);
  CHECK(first_cut(x16 + std::string(240 * K - 2, 'x') + "\n\n" + tail) == 256 * K);
  CHECK(first_cut(x16 + std::string(240 * K - 1, 'x') + "\n\n" + tail) == 256 * K);  // a newline, its pair is beyond
  CHECK(first_cut(x16 + std::string(240 * K, 'x') + "\n\n" + tail) == 256 * K);      // none: hard
  CHECK(first_cut(std::string(256 * K - 1, 'x') + "é" + tail) == 256 * K - 1);
  CHECK(first_cut(std::string(256 * K - 3, 'x') + "🙂" + tail) == 256 * K - 3);
  CHECK(first_cut(std::string(256 * K + 9, '\x80')) == 256 * K);
  CHECK(first_cut("a\n\nb") == 4);
  CHECK(first_cut(x16) == 16 * K);
  CHECK(first_cut(x16 + "b") == 16 * K + 1);
}

// Kills: cuts that depend on where a buffer ended, and a decoder that drops text at its buffer's end.
TEST_CASE("plain, gzip and Zstandard files of one text have the same documents", "[data]") {
  const TempFolder folder;
  std::string text;
  for (size_t i = 0; text.size() < 3'000'000; ++i) {  // stretches without a blank line, and some without a newline
    text += noise(50 + i * 37 % 3000) + (i % 7 == 0 && i % 700 < 300 ? "\n\n" : "\n");
    if (i % 500 == 499) text += std::string(400 * K, 'z');
  }
  write_text(folder / "a.txt", text);
  write_text(folder / "a.txt.gz", gzip(text));
  write_text(folder / "b.md.gz", gzip(text.substr(0, 1'234'567)) + gzip(text.substr(1'234'567)));
  write_text(folder / "a.txt.zst", zstd(text));
  write_text(folder / "b.md.zst", zstd(text.substr(0, 777'777)) + zstd(text.substr(777'777)));
  const auto plain = documents_of(folder / "a.txt");
  std::string joined;
  for (const std::string& document : plain) joined += document;
  CHECK(joined == text);
  size_t at = 0;
  for (const std::string& document : plain) {  // the reader's buffer is not part of the rule
    REQUIRE(document.size() == first_cut(std::string_view(text).substr(at)));
    at += document.size();
  }
  for (const char* name : {"a.txt.gz", "b.md.gz", "a.txt.zst", "b.md.zst"}) {
    INFO(name);
    CHECK(documents_of(folder / name) == plain);
  }
}

// Kills: a cut or damaged archive that passes for a shorter text.
TEST_CASE("a damaged archive is damaged data with its name and an offset", "[data]") {
  const TempFolder folder;
  const std::string text = noise(700'000);
  struct Case {
    std::string name, bytes;
  };
  std::string flipped = gzip(text), frame = zstd(text);
  flipped[flipped.size() - 5] ^= 1;  // of its checksum
  frame[frame.size() / 2] ^= 0x40;
  const std::vector<Case> cases = {{"a.txt.gz", ""},
                                   {"b.txt.gz", gzip(text).substr(0, 100'000)},
                                   {"c.txt.gz", flipped},
                                   {"d.txt.gz", text},
                                   {"e.txt.gz", gzip(text) + "rest"},
                                   {"a.txt.zst", ""},
                                   {"b.txt.zst", zstd(text).substr(0, 100'000)},
                                   {"c.txt.zst", text},
                                   {"d.txt.zst", zstd(text) + "rest"}};
  for (const Case& c : cases) {
    write_text(folder / c.name, c.bytes);
    const Caught error = caught([&] { documents_of(folder / c.name); });
    INFO(c.name << ": " << error.text);
    CHECK(error.code == 3);
    CHECK(error.has(c.name));
    CHECK(error.has("offset"));
  }
}

// Kills: other files swept up from a folder, order of naming, a file taken twice.
TEST_CASE("inputs are files, folders and globs, sorted and each once", "[data]") {
  const TempFolder folder;
  make_directories(folder / "sub/deep");
  for (const char* name :
       {"b.txt", "a.md", "sub/c.txt.gz", "sub/deep/d.md.zst", "sub/x.jsonl", "sub/README", "sub/.txt"}) {
    write_text(folder / name, "text");
  }
  std::vector<std::string> paths;
  for (const InputFile& file : expand_inputs({folder / "sub", folder / "*.txt", folder.path()}))
    paths.push_back(file.path);
  const std::vector<std::string> expected = {folder / "a.md", folder / "b.txt", folder / "sub/c.txt.gz",
                                             folder / "sub/deep/d.md.zst"};
  CHECK(paths == expected);
  CHECK(caught([&] { expand_inputs({folder / "sub/x.jsonl"}); }).has(".txt .md"));
  CHECK(caught([&] { expand_inputs({folder / "none"}); }).code == 2);
  CHECK(caught([&] { expand_inputs({folder / "*.none"}); }).has("no file matches"));
  make_directories(folder / "bare");
  const Caught none = caught([&] { expand_inputs({folder / "bare"}); });
  CHECK(none.code == 2);
  CHECK(none.has("looked for"));
}
