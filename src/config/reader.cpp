#include "config/reader.h"

#include <algorithm>

namespace sffn {
namespace {

// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours cost 1.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) current[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before = std::move(previous);
    previous = current;
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = previous[j - 1] + (a[i - 1] != b[j - 1]);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replace});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) current[j] = std::min(current[j], before[j - 2] + 1);
    }
  }
  return current[b.size()];
}

std::string listed(const std::vector<std::string>& words, std::string_view quote) {
  std::string text;
  for (const std::string& word : words) text += cat(text.empty() ? "" : ", ", quote, word, quote);
  return text;
}

std::string shown(const Json& value) {
  if (value.is_object() || value.is_array()) return cat("an ", value.type_name());
  return printable(value.is_string() ? cat('"', value.as_string(), '"') : value.dump());
}

std::string with_article(const std::string& noun) {
  return (noun.starts_with("integer") || noun.starts_with("object") ? "an " : "a ") + noun;
}

bool is_set_name(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), plain);
}

}  // namespace

std::string Range::text() const {
  const auto number = [](double value) { return cat(static_cast<int64_t>(value)); };
  const bool has_low = low > -std::numeric_limits<double>::infinity();
  const bool has_high = high < std::numeric_limits<double>::infinity();
  if (has_low && has_high)
    return cat("in ", low_open ? "(" : "[", number(low), ", ", number(high), high_open ? ")" : "]");
  if (has_low) return cat(low_open ? "> " : ">= ", number(low));
  if (has_high) return cat(high_open ? "< " : "<= ", number(high));
  return "";
}

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  static constexpr size_t kLongestWord = 64;  // the distance costs the product of the lengths
  std::string best;
  size_t best_distance = std::min(word.size(), kLongestWord) / 2 + 1;
  if (word.size() > kLongestWord) return best;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) best_distance = distance, best = candidate;
  }
  return best;
}

std::string printable(std::string_view text) {
  static constexpr size_t kShown = 60;
  const std::string escaped = Json(text.substr(0, kShown)).dump();
  std::string inner = escaped.substr(1, escaped.size() - 2);
  for (size_t at = inner.find("\\\""); at != std::string::npos; at = inner.find("\\\"", at)) inner.erase(at, 1);
  return text.size() > kShown ? inner + "..." : inner;
}

ConfigReader::ConfigReader(const Json& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {
  if (object.is_object()) return;
  throw UsageError(place(), cat("is ", shown(object), "; an object is expected"));
}

ConfigReader::ConfigReader(Schema& schema, std::string path) : path_(std::move(path)), schema_(&schema) {}

std::string ConfigReader::join(std::string_view key) const {
  const std::string name = printable(key);
  return path_.empty() ? name : cat(path_, ".", name);
}

std::string ConfigReader::place(std::string_view key) const { return cat(file_, ": ", join(key)); }

void ConfigReader::fail(std::string_view key, const std::string& what) const { throw UsageError(place(key), what); }

void ConfigReader::note(std::string_view key, std::string_view type, const Default& fallback, std::string allowed,
                        std::string_view meaning) {
  known_.emplace_back(key);
  if (!collecting()) return;
  schema_->push_back({join(key), std::string(type), fallback.required, fallback.value, fallback.rule,
                      std::move(allowed), std::string(meaning)});
}

// A required key that is absent: a key of the file that nobody has read yet may be what was meant.
const Json& ConfigReader::need(std::string_view key, const std::string& expected) const {
  if (const Json* value = find(key)) return *value;
  std::vector<std::string> unread;
  for (const Json::Member& member : object_->as_object()) {
    if (std::find(known_.begin(), known_.end(), member.key) == known_.end()) unread.push_back(member.key);
  }
  const std::string meant = nearest_word(key, unread);
  fail(key, cat("is missing; ", with_article(expected), " is required here",
                meant.empty() ? "" : cat(" (is \"", printable(meant), "\" meant to be it?)")));
}

void ConfigReader::wrong(std::string_view key, const Json& value, const std::string& expected) const {
  fail(key, cat("is ", shown(value), "; ", with_article(expected), " is expected"));
}

void ConfigReader::take(std::string_view key, const Json& value, Range, bool& out) const {
  if (!value.is_bool()) wrong(key, value, "boolean (true or false)");
  out = value.as_bool();
}

void ConfigReader::take(std::string_view key, const Json& value, Range range, int64_t& out) const {
  if (!value.is_int() || !range.contains(value.as_double())) wrong(key, value, cat("integer ", range.text()));
  out = value.as_int();
}

void ConfigReader::take(std::string_view key, const Json& value, Range range, double& out) const {
  if (!value.is_number() || !range.contains(value.as_double())) wrong(key, value, cat("number ", range.text()));
  out = value.as_double();
}

void ConfigReader::take(std::string_view key, const Json& value, Range, std::string& out) const {
  if (!value.is_string()) wrong(key, value, "string");
  if (value.as_string().empty()) fail(key, "is empty; a text is expected");
  if (value.as_string().find('\0') != std::string::npos) fail(key, "holds a NUL character; a text is expected");
  out = value.as_string();
}

std::optional<size_t> ConfigReader::pick(std::string_view key, const std::vector<std::string>& names,
                                         const Default& fallback, std::string_view meaning) {
  note(key, "string", fallback, listed(names, "\""), meaning);
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = cat("one of ", listed(names, "\""), " is expected");
  if (!value->is_string()) fail(key, cat("is ", shown(*value), "; ", expected));
  const auto found = std::find(names.begin(), names.end(), value->as_string());
  if (found != names.end()) return static_cast<size_t>(found - names.begin());
  const std::string meant = nearest_word(value->as_string(), names);
  fail(key, cat("is ", shown(*value), "; ", expected, meant.empty() ? "" : cat(" (the nearest is \"", meant, "\")")));
}

int64_t ConfigReader::integer_or(std::string_view key, std::string_view word, int64_t word_value,
                                 std::string_view meaning, Range range) {
  note(key, "integer or string", {.value = Json(word)}, cat("\"", word, "\" or ", range.text()), meaning);
  const Json* value = find(key);
  if (value == nullptr || (value->is_string() && value->as_string() == word)) return word_value;
  if (!value->is_int() || !range.contains(value->as_double())) {
    wrong(key, *value, cat("integer ", range.text(), " or \"", word, "\""));
  }
  return value->as_int();
}

std::optional<double> ConfigReader::number_or_null(std::string_view key, const std::string& none,
                                                   std::string_view meaning, Range range) {
  note(key, "number or null", {.rule = cat("null: ", none)}, cat("null or ", range.text()), meaning);
  resolve(key, nullptr);
  const Json* found = find(key);
  if (found == nullptr || found->is_null()) return std::nullopt;
  if (!found->is_number() || !range.contains(found->as_double())) {
    wrong(key, *found, cat("number ", range.text(), " or null"));
  }
  resolve(key, found->as_double());
  return found->as_double();
}

std::pair<double, double> ConfigReader::two_numbers(std::string_view key, std::pair<double, double> fallback,
                                                    std::string_view meaning, Range range) {
  note(key, "list of 2 numbers", {.value = Json::Array{fallback.first, fallback.second}}, cat("each ", range.text()),
       meaning);
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_array() || value->as_array().size() != 2) {
    fail(key, cat("is ", value->is_array() ? cat("a list of ", value->as_array().size()) : shown(*value),
                  "; a list of 2 numbers is expected"));
  }
  take(cat(key, ".0"), value->as_array()[0], range, fallback.first);
  take(cat(key, ".1"), value->as_array()[1], range, fallback.second);
  return fallback;
}

std::optional<std::pair<int64_t, int64_t>> ConfigReader::two_integers(std::string_view key, const std::string& rule,
                                                                      std::string_view meaning, Range range) {
  note(key, "list of 2 integers", {.rule = rule}, cat("each ", range.text()), meaning);
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array() || value->as_array().size() != 2) {
    fail(key, cat("is ", value->is_array() ? cat("a list of ", value->as_array().size()) : shown(*value),
                  "; a list of 2 integers is expected"));
  }
  std::pair<int64_t, int64_t> result;
  take(cat(key, ".0"), value->as_array()[0], range, result.first);
  take(cat(key, ".1"), value->as_array()[1], range, result.second);
  return result;
}

std::map<std::string, std::string> ConfigReader::strings_by_name(std::string_view key, std::string_view meaning) {
  note(key, "object of strings", {.value = Json::object()}, "", meaning);
  std::map<std::string, std::string> result;
  const Json* value = find(key);
  if (value == nullptr) return result;
  if (!value->is_object()) wrong(key, *value, "object of strings");
  for (const Json::Member& member : value->as_object()) {
    const std::string here = cat(key, ".", member.key);
    if (!is_set_name(member.key)) {
      fail(here, "is not a usable name; 1 to 64 letters, digits, '_', '-' or '.' are expected");
    }
    take(here, member.value, kAnyNumber, result[member.key]);
  }
  return result;
}

ConfigReader ConfigReader::child(std::string_view key) {
  static const Json kEmpty = Json::object();
  known_.emplace_back(key);
  if (collecting()) return ConfigReader(*schema_, join(key));
  const Json* value = find(key);
  return ConfigReader(value ? *value : kEmpty, file_, join(key));
}

ConfigReader ConfigReader::required_child(std::string_view key) {
  if (!collecting()) need(key, "object");
  return child(key);
}

std::vector<ConfigReader> ConfigReader::children(std::string_view key, std::string_view meaning) {
  note(key, "list of objects", {.value = Json::array()}, "", meaning);
  std::vector<ConfigReader> result;
  if (collecting()) {
    result.push_back(ConfigReader(*schema_, join(cat(key, ".N"))));
    return result;
  }
  const Json* value = find(key);
  if (value == nullptr) return result;
  if (!value->is_array()) wrong(key, *value, "list of objects");
  for (size_t i = 0; i < value->as_array().size(); ++i) {
    result.push_back(ConfigReader(value->as_array()[i], file_, join(cat(key, ".", i))));
  }
  return result;
}

void ConfigReader::finish() const {
  if (collecting()) return;
  for (const Json::Member& member : object_->as_object()) {
    if (std::find(known_.begin(), known_.end(), member.key) != known_.end()) continue;
    const std::string meant = nearest_word(member.key, known_);
    fail(member.key, cat("is not a known key; ", meant.empty() ? "" : cat("the nearest is \"", meant, "\", "),
                         "known here are ", listed(known_, "")));
  }
}

}  // namespace sffn
