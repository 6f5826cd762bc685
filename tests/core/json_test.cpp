#include "core/json.h"

#include "support/catch.h"

using namespace sffn;

namespace {
Json parse(std::string_view text) { return parse_json(text, "test", ExitCode::kUsage); }
std::string error_of(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
}  // namespace

// Kills: keeping the last of two equal keys, as the library does by itself.
TEST_CASE("a duplicate key is an error", "[json]") {
  CHECK(error_of(R"({"a": 1, "a": 2})").find("stands twice") != std::string::npos);
  CHECK(error_of(R"({"a": {"b": 1}, "c": {"b": 2}})").empty());
}

// Kills: rounding integers through double.
TEST_CASE("integers beyond 64 bits are errors and those within are exact", "[json]") {
  CHECK(parse("9223372036854775807").as_int() == INT64_MAX);
  CHECK(error_of("9223372036854775808").find("beyond") != std::string::npos);
  CHECK(error_of("-9223372036854775809").find("beyond") != std::string::npos);
  CHECK(parse("1.5").is_double());
  CHECK(!parse("2.0").is_int());
}

// Kills: a depth limit that is off by one, or not there.
TEST_CASE("nesting is allowed to the limit and refused one beyond it", "[json]") {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(error_of(nested(64)).empty());
  CHECK(error_of(nested(65)).find("nesting") != std::string::npos);
}

// Kills: reporting the byte offset where people count lines.
TEST_CASE("a syntax error names line and column", "[json]") {
  CHECK(error_of("{\n  \"a\": ,\n}").find("line 2 column 8") != std::string::npos);
  CHECK(error_of("{} x").find("line 1") != std::string::npos);
  CHECK(error_of("\xef\xbb\xbf{}").find("byte order mark") != std::string::npos);
  CHECK(error_of("[NaN]").find("not valid JSON") != std::string::npos);
}

// Kills: losing digits, order or escapes on the way out.
TEST_CASE("a dumped value parses back to itself", "[json]") {
  const Json value =
      parse(R"({"z": [1, -2, 0.1, 1e300], "a": {"q": "\u0001\n\"\\é", "t": true, "n": null}, "e": {}, "l": []})");
  CHECK(parse(value.dump()) == value);
  CHECK(parse(value.dump(2)) == value);
  CHECK(Json(2.0).dump() == "2.0");
  CHECK(Json(std::string("\xff")).dump() == "\"\xef\xbf\xbd\"");
}

// Kills: ignoring what follows a NUL byte; a key on the terminal as it stands in the file.
TEST_CASE("bytes that end or rewrite a line of text are refused and shown escaped", "[json]") {
  CHECK(error_of(std::string_view("{}\0x", 4)).find("line 1 column 3: a NUL byte") != std::string::npos);
  CHECK(error_of(R"({"\u001b": 1, "\u001b": 2})").find("\\u001b") != std::string::npos);
}
