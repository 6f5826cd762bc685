#include "core/json.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>

namespace sffn {
namespace {

template <class T, class V>
T& get_as(V& variant, std::string_view expected, std::string_view actual) {
  T* value = std::get_if<std::remove_const_t<T>>(&variant);
  if (value == nullptr) throw RunError("json", cat("a ", actual, " was read as ", expected));
  return *value;
}

// Where in the text an offset lies, as people count: from 1.
std::string line_and_column(std::string_view text, size_t offset) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i < std::min(offset, text.size()); ++i) {
    if (text[i] == '\n')
      ++line, column = 1;
    else
      ++column;
  }
  return cat("line ", line, " column ", column);
}

// Builds the value from nlohmann's events and refuses what its own tree would accept silently.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(int depth_limit) : depth_limit_(depth_limit) {}

  bool null() override { return put(Json()); }
  bool boolean(bool value) override { return put(Json(value)); }
  bool number_integer(number_integer_t value) override { return put(Json(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return fail("an integer beyond 2^63 - 1");
    return put(Json(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) return fail("a number out of range");
    if (text.find_first_of(".eE") == std::string::npos) return fail("an integer beyond 64 bits");
    return put(Json(double{value}));
  }
  bool string(string_t& value) override { return put(Json(std::move(value))); }
  bool binary(binary_t&) override { return fail("binary data"); }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    // A set, because a search through the members would make a file of many keys take quadratic time.
    if (!keys_.back().insert(value).second) return fail(cat("the key ", Json(value).dump(), " stands twice"));
    stack_.back()->as_object().push_back({std::move(value), Json()});
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    position_ = position;
    const std::string text = e.what();
    const size_t detail = text.find(": ", text.find("parse error"));
    error_ = detail == std::string::npos ? text : text.substr(detail + 2);
    return false;
  }

  Json root;
  const std::string& error() const { return error_; }
  size_t position() const { return position_; }

 private:
  bool fail(std::string what) {
    error_ = std::move(what);
    return false;
  }
  // Where the next value goes: the root, the end of the open array, or the member just named.
  Json& slot() {
    if (stack_.empty()) return root;
    Json& top = *stack_.back();
    if (top.is_object()) return top.as_object().back().value;
    return top.as_array().emplace_back();
  }
  bool put(Json value) {
    slot() = std::move(value);
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(stack_.size()) >= depth_limit_) return fail(cat("nesting deeper than ", depth_limit_));
    Json& place = slot();
    place = std::move(container);
    keys_.emplace_back();
    stack_.push_back(&place);  // stays valid: the container it lies in does not grow before this one is closed
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  int depth_limit_;
  std::vector<Json*> stack_;                           // open containers, innermost last
  std::vector<std::unordered_set<std::string>> keys_;  // of each open container
  std::string error_;
  size_t position_ = 0;
};

// Length of the valid UTF-8 sequence that starts at text[i], or 0.
size_t utf8_length(std::string_view text, size_t i) {
  const unsigned char c = text[i];
  if (c < 0x80) return 1;
  const size_t length = c >= 0xf0 && c <= 0xf4 ? 4 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xc2 && c < 0xe0 ? 2 : 0;
  if (length == 0 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = text[i + 1];
  const bool overlong = (c == 0xe0 && second < 0xa0) || (c == 0xf0 && second < 0x90);
  const bool surrogate_or_beyond = (c == 0xed && second > 0x9f) || (c == 0xf4 && second > 0x8f);
  return overlong || surrogate_or_beyond ? 0 : length;
}

void dump_string(std::string_view text, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = text[i];
    const size_t length = utf8_length(text, i);
    if (length == 0) {
      out += "\xef\xbf\xbd";
      ++i;
      continue;
    }
    if (c == '"' || c == '\\')
      (out += '\\') += static_cast<char>(c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\r')
      out += "\\r";
    else if (c < 0x20 || c == 0x7f)
      ((out += "\\u00") += kHex[c >> 4]) += kHex[c & 15];
    else
      out += text.substr(i, length);
    i += length;
  }
  out += '"';
}

void dump_double(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  const std::string_view text(digits, end - digits);
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";  // stays a number with a fraction when read
}

void new_line(int indent, int depth, std::string& out) {
  if (indent < 0) return;
  out += '\n';
  out.append(static_cast<size_t>(indent) * depth, ' ');
}

void dump_value(const Json& json, int indent, int depth, std::string& out) {
  if (json.is_null())
    out += "null";
  else if (json.is_bool())
    out += json.as_bool() ? "true" : "false";
  else if (json.is_int())
    out += std::to_string(json.as_int());
  else if (json.is_double())
    dump_double(json.as_double(), out);
  else if (json.is_string())
    dump_string(json.as_string(), out);
  else if (json.is_array()) {
    // Arrays of plain values stay on one line.
    bool nested = false;
    for (const Json& item : json.as_array()) nested = nested || item.is_array() || item.is_object();
    out += '[';
    for (size_t i = 0; i < json.as_array().size(); ++i) {
      if (i) out += indent >= 0 && !nested ? ", " : ",";
      if (nested) new_line(indent, depth + 1, out);
      dump_value(json.as_array()[i], indent, depth + 1, out);
    }
    if (nested) new_line(indent, depth, out);
    out += ']';
  } else {
    out += '{';
    bool first = true;
    for (const Json::Member& member : json.as_object()) {
      if (!first) out += ',';
      first = false;
      new_line(indent, depth + 1, out);
      dump_string(member.key, out);
      out += indent >= 0 ? ": " : ":";
      dump_value(member.value, indent, depth + 1, out);
    }
    if (!first) new_line(indent, depth, out);
    out += '}';
  }
}

}  // namespace

std::string_view Json::type_name() const {
  static constexpr std::string_view kNames[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  return kNames[value_.index()];
}

bool Json::as_bool() const { return get_as<const bool>(value_, "boolean", type_name()); }
int64_t Json::as_int() const { return get_as<const int64_t>(value_, "integer", type_name()); }
double Json::as_double() const {
  return is_int() ? static_cast<double>(as_int()) : get_as<const double>(value_, "number", type_name());
}
const std::string& Json::as_string() const { return get_as<const std::string>(value_, "string", type_name()); }
const Json::Array& Json::as_array() const { return get_as<const Array>(value_, "array", type_name()); }
Json::Array& Json::as_array() { return get_as<Array>(value_, "array", type_name()); }
const Json::Object& Json::as_object() const { return get_as<const Object>(value_, "object", type_name()); }
Json::Object& Json::as_object() { return get_as<Object>(value_, "object", type_name()); }

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const Member& member : as_object()) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

Json& Json::operator[](std::string_view key) {
  if (is_null()) value_ = Object{};
  for (Member& member : as_object()) {
    if (member.key == key) return member.value;
  }
  as_object().push_back({std::string(key), Json()});
  return as_object().back().value;
}

void Json::push_back(Json value) {
  if (is_null()) value_ = Array{};
  as_array().push_back(std::move(value));
}

std::string Json::dump(int indent) const {
  std::string out;
  dump_value(*this, indent, 0, out);
  return out;
}

bool Json::operator==(const Json& other) const { return value_ == other.value_; }

Json parse_json(std::string_view text, const std::string& place, ExitCode code, JsonLimits limits) {
  if (text.size() > limits.bytes) {
    throw Error(code, place, cat("JSON of ", text.size(), " bytes; at most ", limits.bytes));
  }
  if (text.starts_with("\xef\xbb\xbf"))
    throw Error(code, place, "starts with a byte order mark; plain UTF-8 is expected");
  // The library takes NUL for the end of the text and would ignore what follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw Error(code, place, cat("not valid JSON at ", line_and_column(text, nul), ": a NUL byte; UTF-8 is expected"));
  }
  Builder builder(limits.depth);
  if (!nlohmann::json::sax_parse(text, &builder)) {
    const std::string at = builder.position() > 0 ? " at " + line_and_column(text, builder.position() - 1) : "";
    throw Error(code, place, cat("not valid JSON", at, ": ", builder.error()));
  }
  return std::move(builder.root);
}

}  // namespace sffn
