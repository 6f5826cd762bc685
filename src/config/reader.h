// One object of a configuration, read key by key. Whatever the file holds that nobody asked for is an error, and what
// was asked for is the reference that `sffn describe config` prints: both come from the same calls.
// Every error is a UsageError "FILE: path.to.key: what is wrong; what would be right".
#pragma once
#include "core/json.h"

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sffn {

// The numbers a key accepts.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;

  bool contains(double value) const {
    return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
  }
  std::string text() const;  // "", "> 0", ">= 1", "in [0, 1)"
};
inline constexpr Range kAnyNumber{};
inline constexpr Range kPositive{.low = 0, .low_open = true};
inline constexpr Range kNotNegative{.low = 0};
inline constexpr Range kAtLeastOne{.low = 1};
inline constexpr Range kProbability{.low = 0, .high = 1, .high_open = true};
inline constexpr Range kSwitch{.low = 0, .high = 1};

// A word of the file and what it stands for.
template <class T>
struct Named {
  std::string_view name;
  T value;
};
template <class T, size_t N>
std::string_view name_of(const Named<T> (&table)[N], const T& value) {
  for (const Named<T>& entry : table) {
    if (entry.value == value) return entry.name;
  }
  throw RunError("configuration", "a value that has no name in files");
}

// One documented key: required, or with a default that is a value (`fallback`) or follows from other keys (`rule`).
struct SchemaEntry {
  std::string path, type;
  bool required = false;
  Json fallback;
  std::string rule;
  std::string allowed, meaning;
};
using Schema = std::vector<SchemaEntry>;

// The candidate with the smallest edit distance (insert, delete, replace, swap of neighbours); empty when none is
// closer than half of the word's length.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);
// Text from a file as one line that is safe on a terminal, shortened to about 60 bytes.
std::string printable(std::string_view text);

class ConfigReader {
 public:
  // `file` opens every message; `path` is where `object` lies in it ("" for the whole file). Throws unless it is an
  // object.
  ConfigReader(const Json& object, std::string file, std::string path = "");
  // Reads nothing and throws nothing: every call only adds to `schema`. Required values come back as T{}.
  ConfigReader(Schema& schema, std::string path);

  // T: bool, int64_t (1.5 is none), double (1 is one), std::string (never empty).
  template <class T>
  T required(std::string_view key, std::string_view meaning, Range range = kAnyNumber) {
    note(key, type_name(T{}), {.required = true}, range.text(), meaning);
    if (collecting()) return T{};
    T value{};
    take(key, need(key, cat(type_name(value), " ", range.text())), range, value);
    resolve(key, value);
    return value;
  }
  template <class T>
  T optional(std::string_view key, const T& fallback, std::string_view meaning, Range range = kAnyNumber) {
    note(key, type_name(fallback), {.value = Json(fallback)}, range.text(), meaning);
    T value = fallback;
    if (const Json* found = find(key)) take(key, *found, range, value);
    resolve(key, value);
    return value;
  }
  // A key whose default follows from others: `rule` describes it, the caller computes it, and resolves it where the
  // resolved configuration shall show it.
  template <class T>
  std::optional<T> derived(std::string_view key, const std::string& rule, std::string_view meaning,
                           Range range = kAnyNumber) {
    note(key, type_name(T{}), {.rule = rule}, range.text(), meaning);
    const Json* found = find(key);
    if (found == nullptr) return std::nullopt;
    T value{};
    take(key, *found, range, value);
    return value;
  }
  // One of the names of `table`; `rule` describes a default that follows from other keys.
  template <class T, size_t N>
  T one_of(std::string_view key, const Named<T> (&table)[N], const T& fallback, std::string_view meaning,
           const std::string& rule = "") {
    std::vector<std::string> names;
    for (const Named<T>& entry : table) names.emplace_back(entry.name);
    Default shown{.rule = rule};
    if (rule.empty()) shown.value = name_of(table, fallback);
    const std::optional<size_t> choice = pick(key, names, shown, meaning);
    const T value = choice ? table[*choice].value : fallback;
    resolve(key, std::string(name_of(table, value)));
    return value;
  }
  // An integer, or `word`, which reads as `word_value` and is the default.
  int64_t integer_or(std::string_view key, std::string_view word, int64_t word_value, std::string_view meaning,
                     Range range);
  // A number, or null, which is the default and stands for `none` in words.
  std::optional<double> number_or_null(std::string_view key, const std::string& none, std::string_view meaning,
                                       Range range);
  std::pair<double, double> two_numbers(std::string_view key, std::pair<double, double> fallback,
                                        std::string_view meaning, Range range);
  // Two integers whose default follows from others, as of derived().
  std::optional<std::pair<int64_t, int64_t>> two_integers(std::string_view key, const std::string& rule,
                                                          std::string_view meaning, Range range);
  // Names chosen by the user, each with a string. Names: letters, digits, '_', '-', '.', at most 64.
  std::map<std::string, std::string> strings_by_name(std::string_view key, std::string_view meaning);

  ConfigReader child(std::string_view key);           // absent: as if it were {}
  ConfigReader required_child(std::string_view key);  // absent: an error
  std::vector<ConfigReader> children(std::string_view key,
                                     std::string_view meaning);  // a list of objects; absent: none
  // Documents a required key that another layer reads.
  void document(std::string_view key, std::string_view type, std::string_view meaning) {
    note(key, type, {.required = true}, "", meaning);
  }

  // The object with every key that was read and its value, defaults included: it reads back to the same.
  const Json& resolved() const { return resolved_; }
  void resolve(std::string_view key, Json value) { resolved_[std::string(key)] = std::move(value); }

  const std::string& path() const { return path_; }
  const Json& json() const { return *object_; }  // of a reader that is not collecting
  std::string place() const { return path_.empty() ? file_ : cat(file_, ": ", path_); }
  std::string place(std::string_view key) const;  // "FILE: path.key"
  [[noreturn]] void fail(std::string_view key, const std::string& what) const;
  bool collecting() const { return schema_ != nullptr; }
  // Throws for the first key that was never read, naming those known here and the nearest.
  void finish() const;

 private:
  struct Default {
    bool required = false;
    Json value = Json();
    std::string rule = "";
  };
  static std::string_view type_name(bool) { return "boolean"; }
  static std::string_view type_name(int64_t) { return "integer"; }
  static std::string_view type_name(double) { return "number"; }
  static std::string_view type_name(const std::string&) { return "string"; }
  std::string join(std::string_view key) const;
  void note(std::string_view key, std::string_view type, const Default& fallback, std::string allowed,
            std::string_view meaning);
  const Json* find(std::string_view key) const { return object_ ? object_->find(key) : nullptr; }
  const Json& need(std::string_view key, const std::string& expected) const;
  [[noreturn]] void wrong(std::string_view key, const Json& value, const std::string& expected) const;
  void take(std::string_view key, const Json& value, Range range, bool& out) const;
  void take(std::string_view key, const Json& value, Range range, int64_t& out) const;
  void take(std::string_view key, const Json& value, Range range, double& out) const;
  void take(std::string_view key, const Json& value, Range range, std::string& out) const;
  std::optional<size_t> pick(std::string_view key, const std::vector<std::string>& names, const Default& fallback,
                             std::string_view meaning);

  const Json* object_ = nullptr;
  std::string file_, path_;
  Schema* schema_ = nullptr;
  std::vector<std::string> known_;
  Json resolved_ = Json::object();
};

}  // namespace sffn
