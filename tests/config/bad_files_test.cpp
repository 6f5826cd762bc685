// Hostile and mistaken configuration files: each is a usage error (exit 2) that names the place and the rule.
#include "config/config.h"
#include "support/catch.h"
#include "support/temp_folder.h"

#include <sys/stat.h>

#include <ctime>

using namespace sffn;
using namespace sffn::test;
using namespace std::string_literals;

namespace {

constexpr char kModel[] = R"("model": {"context": 8, "layers": 2, "d_model": 16, "heads": 4})";

std::string config_file(const TempFolder& folder, const std::string& text, const std::string& name = "config.json") {
  write_text(folder / name, text);
  return folder / name;
}

// The error of loading `path`, checked to be of the usage kind, on one line, opened by the path, and quick.
std::string error_of(const std::string& path, const std::vector<std::string>& overrides = {}) {
  const std::clock_t begin = std::clock();  // processor time: the machine may be busy
  std::string text;
  try {
    load_config(path, overrides);
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kUsage);
    text = error.what();
    CHECK(text.starts_with(path));
    CHECK(text.find('\n') == std::string::npos);
  }
  CHECK(std::clock() - begin < CLOCKS_PER_SEC);
  return text;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::string repeated(std::string_view part, size_t times) {
  std::string text;
  text.reserve(part.size() * times);
  for (size_t i = 0; i < times; ++i) text += part;
  return text;
}

std::string utf16(std::string_view text) {
  std::string wide = "\xff\xfe";
  for (const char c : text) (wide += c) += '\0';
  return wide;
}

}  // namespace

// Kills: a reader that guesses at broken text (the last of two keys, a skipped mark, a repaired comma).
TEST_CASE("a file that is not strict JSON is refused with what is wrong", "[config]") {
  struct Case {
    std::string text, reason;
  };
  const std::string good = cat("{", kModel, "}");
  const Case cases[] = {
      {"", "not valid JSON"},
      {" \n\t", "not valid JSON"},
      {"null", "an object is expected"},
      {"[]", "an object is expected"},
      {"3", "an object is expected"},
      {"\"text\"", "an object is expected"},
      {"{", "not valid JSON"},
      {"}", "not valid JSON"},
      {cat("{", kModel, ",}"), "not valid JSON"},
      {cat("{", kModel, "} {}"), "not valid JSON"},
      {cat("{", kModel, "}x"), "not valid JSON"},
      {cat("// note\n", good), "not valid JSON"},
      {cat("{'name': 'a', ", kModel, "}"), "not valid JSON"},
      {cat("{name: \"a\", ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\" \"a\", ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\": \"a\" ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\": \"a\", \"name\": \"b\", ", kModel, "}"), "stands twice"},
      {cat("{", kModel, ", ", kModel, "}"), "stands twice"},
      {cat("{", kModel, ", \"log\": {\"every\": 1, \"every\": 1}}"), "stands twice"},
      {"\xef\xbb\xbf" + good, "byte order mark"},
      {utf16(good), "a NUL byte; UTF-8 is expected"},
      {good + "\0 text"s, "a NUL byte"},
      {cat("{\"name\": \"\xff\xfe\", ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\": \"\xc0\xaf\", ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\": \"\x01\", ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\": \"a\nb\", ", kModel, "}"), "not valid JSON"},
      {cat("{\"name\": \"\\x\", ", kModel, "}"), "not valid JSON"},
      {cat("{", kModel, ", \"optimizer\": {\"lr\": NaN}}"), "not valid JSON"},
      {cat("{", kModel, ", \"optimizer\": {\"lr\": Infinity}}"), "not valid JSON"},
      {cat("{", kModel, ", \"optimizer\": {\"lr\": nan}}"), "not valid JSON"},
      {cat("{", kModel, ", \"optimizer\": {\"lr\": 1e999}}"), "overflow"},
      {cat("{", kModel, ", \"optimizer\": {\"lr\": .5}}"), "not valid JSON"},
      {cat("{", kModel, ", \"optimizer\": {\"lr\": +1}}"), "not valid JSON"},
      {cat("{", kModel, ", \"train\": {\"steps\": 0x10}}"), "not valid JSON"},
      {cat("{", kModel, ", \"train\": {\"steps\": 010}}"), "not valid JSON"},
      {cat("{", kModel, ", \"train\": {\"steps\": 18446744073709551616}}"), "beyond"},
      {cat("{", kModel, ", \"train\": {\"steps\": 9223372036854775808}}"), "beyond"},
      {cat("{", kModel, ", \"train\": {\"steps\": -9223372036854775809}}"), "beyond"},
      {cat("{", kModel, ", \"train\": {\"steps\": True}}"), "not valid JSON"},
      {repeated("[", 65) + repeated("]", 65), "nesting"},
      {repeated("[", 200000), "nesting"},
      {repeated("{\"a\":", 100000), "nesting"},
      {cat("{", kModel, ", \"data\": ", repeated("[", 100), repeated("]", 100), "}"), "nesting"},
      {cat("{", kModel, ", \"name\": \"", std::string(1 << 20, 'x'), "\"}"), "at most"},
      {std::string((1 << 20) + 1, ' '), "at most"},
  };
  const TempFolder folder;
  for (const Case& c : cases) {
    INFO(c.text.substr(0, 100));
    const std::string error = error_of(config_file(folder, c.text));
    INFO(error);
    CHECK(contains(error, c.reason));
  }
}

// Kills: a size limit that is off by one.
TEST_CASE("a file of 1 MiB is read", "[config]") {
  const TempFolder folder;
  std::string text = cat("{", kModel, "}");
  text.resize(1 << 20, ' ');
  CHECK(load_config(config_file(folder, text), {}).model.layers == 2);
}

// Kills: a search for equal or unknown keys whose time is the square of their number.
TEST_CASE("a file full of keys is refused quickly", "[config]") {
  const TempFolder folder;
  std::string text = cat("{", kModel);
  for (int i = 0; text.size() < 1000000; ++i) text += cat(",\"", i, "\":0");
  CHECK(contains(error_of(config_file(folder, text + "}")), "is not a known key"));
}

// Kills: opening whatever the path names (a folder, a pipe without a writer, a device).
TEST_CASE("what is not a file is refused by its path", "[config]") {
  const TempFolder folder;
  CHECK(contains(error_of(folder / "absent.json"), "No such file"));
  CHECK(contains(error_of(folder.path()), "folder without config.json"));
  CHECK(contains(error_of(config_file(folder, "", "plain") + "/config.json"), "Not a directory"));
  CHECK(contains(error_of("/dev/null"), "not a regular file"));
  const std::string pipe = folder / "pipe.json";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(contains(error_of(pipe), "not a regular file"));
  CHECK_THROWS_AS(load_config("", {}), Error);
}

// Kills: naming the run after the folder, or the folder's file not found.
TEST_CASE("a folder with config.json is read, and a file without a name gives its own", "[config]") {
  const TempFolder folder;
  config_file(folder, cat("{", kModel, "}"));
  CHECK(load_config(folder.path(), {}).name == "config");
  CHECK(load_config(config_file(folder, cat("{", kModel, "}"), "my-run.json"), {}).name == "my-run");
  CHECK(load_config(config_file(folder, cat("{\"name\": \"given\", ", kModel, "}"), "x.json"), {}).name == "given");
}

// Kills: text of a file that reaches a terminal unescaped.
TEST_CASE("keys and values of a file are escaped in messages", "[config]") {
  const TempFolder folder;
  const std::string error =
      error_of(config_file(folder, cat("{\"\\u001b[31m\\n\": 1, ", kModel, ", \"log\": {\"every\": \"\\u0007\"}}")));
  for (const char c : error) CHECK(static_cast<unsigned char>(c) >= 0x20);
}
