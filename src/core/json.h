// A strict JSON value. Every JSON file is read through here: exact types (integers stay int64 and never round),
// duplicate keys, trailing text, invalid UTF-8, a byte order mark, NaN and depth beyond a limit are errors that name
// line and column. Objects keep their order. nlohmann's parser stays inside json.cpp.
#pragma once
#include "core/error.h"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sffn {

class Json {
 public:
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;

  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(int64_t{value}) {}
  Json(int64_t value) : value_(value) {}
  Json(size_t value) : value_(static_cast<int64_t>(value)) {}
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}
  static Json object() { return Json(Object{}); }
  static Json array() { return Json(Array{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_double() const { return std::holds_alternative<double>(value_); }
  bool is_number() const { return is_int() || is_double(); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  std::string_view type_name() const;  // "null", "boolean", "integer", "number", "string", "array", "object"

  // The value; the type must fit (as_double accepts integers), else RunError. Readers of untrusted files check first.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  Array& as_array();
  const Object& as_object() const;
  Object& as_object();

  const Json* find(std::string_view key) const;  // nullptr when absent or not an object
  // The member of that key, appended as null if absent; a null value becomes an object first.
  Json& operator[](std::string_view key);
  void push_back(Json value);  // a null value becomes an array first

  // Compact when indent < 0. Numbers in the shortest form that reads back to the same value; a non-finite number
  // becomes null; invalid UTF-8 becomes U+FFFD.
  std::string dump(int indent = -1) const;
  bool operator==(const Json&) const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

struct Json::Member {
  std::string key;
  Json value;
  bool operator==(const Member&) const = default;
};

struct JsonLimits {
  size_t bytes = size_t{64} << 20;
  int depth = 64;
};

// Throws an Error of `code` at `place` with line and column.
Json parse_json(std::string_view text, const std::string& place, ExitCode code, JsonLimits limits = {});

}  // namespace sffn
