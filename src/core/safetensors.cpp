#include "core/safetensors.h"

#include "core/json.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <tuple>
#include <unordered_set>

namespace sffn {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

struct TypeInfo {
  std::string_view name;
  uint64_t bits;
};
// In the format's alignment order: a writer puts later ones first.
constexpr std::array<TypeInfo, 22> kTypes{
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
     {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}}};

// kTypes.size() when there is no such type.
size_t type_index(std::string_view name) {
  return std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeInfo& t) { return t.name == name; }) - kTypes.begin();
}

std::string_view file_name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kI32:
      return "I32";
    case DType::kF64:
      return "F64";
    case DType::kC128:
      break;
  }
  throw RunError("safetensors", cat("has no element type for ", name_of(dtype)));
}

std::string in_quotes(std::string_view text) { return Json(text.substr(0, 200)).dump(); }

bool is_good_name(std::string_view name) {
  const auto is_control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  return name.size() <= SafetensorsFile::kMaxName && std::none_of(name.begin(), name.end(), is_control);
}

// A non-negative integer; anything else is an error of the tensor.
uint64_t natural(const Json& json, const std::string& place, std::string_view what) {
  if (!json.is_int() || json.as_int() < 0) {
    throw DamagedError(place, cat(what, " holds ", json.dump().substr(0, 40), "; non-negative integers are expected"));
  }
  return static_cast<uint64_t>(json.as_int());
}

// Bytes of the tensor, from its shape and type, without overflow.
uint64_t bytes_of(const SafetensorsEntry& entry, uint64_t bits_per_element, const std::string& place) {
  uint64_t bits = bits_per_element;
  for (const int64_t dim : entry.shape) {
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dim), &bits))
      throw DamagedError(place, "its size overflows");
  }
  if (bits % 8 != 0) throw DamagedError(place, "its size is not a whole number of bytes");
  return bits / 8;
}

SafetensorsEntry parse_entry(const Json::Member& member, const std::string& path) {
  const std::string place = path + ": tensor " + in_quotes(member.key);
  if (!is_good_name(member.key)) {
    throw DamagedError(place, cat("its name has control characters or is over ", SafetensorsFile::kMaxName, " bytes"));
  }
  const Json& value = member.value;
  const Json *dtype = value.find("dtype"), *shape = value.find("shape"), *offsets = value.find("data_offsets");
  if (!dtype || !shape || !offsets || value.as_object().size() != 3 || !dtype->is_string() || !shape->is_array() ||
      !offsets->is_array()) {
    throw DamagedError(place, "is not {\"dtype\", \"shape\", \"data_offsets\"}");
  }
  const size_t type = type_index(dtype->as_string());
  if (type == kTypes.size()) throw DamagedError(place, "has the unknown element type " + in_quotes(dtype->as_string()));
  if (shape->as_array().size() > SafetensorsFile::kMaxRank) {
    throw DamagedError(place,
                       cat("has ", shape->as_array().size(), " dimensions; at most ", SafetensorsFile::kMaxRank));
  }
  if (offsets->as_array().size() != 2) throw DamagedError(place, "data_offsets are not two numbers");
  SafetensorsEntry entry{member.key, dtype->as_string(), {}, 0, 0};
  for (const Json& dim : shape->as_array())
    entry.shape.push_back(static_cast<int64_t>(natural(dim, place, "its shape")));
  entry.begin = natural(offsets->as_array()[0], place, "data_offsets");
  entry.end = natural(offsets->as_array()[1], place, "data_offsets");
  const uint64_t expected = bytes_of(entry, kTypes[type].bits, place);
  if (entry.end < entry.begin || entry.end - entry.begin != expected) {
    throw DamagedError(place, cat("data_offsets [", entry.begin, ", ", entry.end, "] do not span the ", expected,
                                  " bytes of its shape"));
  }
  return entry;
}

bool by_place(const SafetensorsEntry& a, const SafetensorsEntry& b) {
  return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
}

}  // namespace

int64_t SafetensorsEntry::numel() const {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : SafetensorsFile(File::open(path, File::Mode::kRead, ExitCode::kDamaged)) {}

SafetensorsFile::SafetensorsFile(File file) : file_(std::move(file)) {
  const uint64_t file_bytes = file_.size();
  if (file_bytes < 8) throw DamagedError(path(), cat("is ", file_bytes, " bytes; a safetensors file has at least 10"));
  uint64_t header_bytes = 0;
  file_.read_exact(&header_bytes, 8, 0);
  if (header_bytes > kMaxHeader || header_bytes > file_bytes - 8) {
    throw DamagedError(path(), cat("its header claims ", header_bytes, " bytes; the file has ", file_bytes,
                                   " and a header at most ", kMaxHeader));
  }
  std::string header(header_bytes, '\0');
  file_.read_exact(header.data(), header.size(), 8);
  parse_header(header, file_bytes - 8 - header_bytes);
}

void SafetensorsFile::parse_header(std::string_view header, uint64_t data_bytes) {
  if (!header.starts_with('{')) throw DamagedError(path(), "its header does not start with {");
  const Json json = parse_json(header, path() + ": header", ExitCode::kDamaged, {kMaxHeader, 64});
  for (const Json::Member& member : json.as_object()) {
    if (member.key != "__metadata__") {
      entries_.push_back(parse_entry(member, path()));
      continue;
    }
    if (!member.value.is_object()) throw DamagedError(path(), "__metadata__ is not an object");
    for (const Json::Member& item : member.value.as_object()) {
      if (!item.value.is_string()) throw DamagedError(path(), "__metadata__ holds more than strings");
      metadata_[item.key] = item.value.as_string();
    }
  }
  std::sort(entries_.begin(), entries_.end(), by_place);
  const uint64_t data_start = 8 + header.size();
  uint64_t next = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    SafetensorsEntry& entry = entries_[i];
    if (entry.begin != next || entry.end > data_bytes) {
      throw DamagedError(path() + ": tensor " + in_quotes(entry.name),
                         cat("its data lie at [", entry.begin, ", ", entry.end, ") of ", data_bytes,
                             "; tensors follow each other without holes or overlaps, the next one at ", next));
    }
    next = entry.end;
    entry.begin += data_start;
    entry.end += data_start;
    index_.emplace(entry.name, i);
  }
  if (next != data_bytes) {
    throw DamagedError(path(), cat("has ", data_bytes, " bytes of data; its tensors take ", next));
  }
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void SafetensorsFile::read(const SafetensorsEntry& entry, DType dtype, int64_t first, int64_t count, void* out) const {
  SFFN_CHECK(entry.dtype == file_name_of(dtype), path(), ": tensor ", in_quotes(entry.name), " of ", entry.dtype,
             " was read as ", file_name_of(dtype));
  SFFN_CHECK(first >= 0 && count >= 0 && first <= entry.numel() - count, path(), ": tensor ", in_quotes(entry.name),
             ": elements [", first, ", ", first + count, ") of ", entry.numel());
  if (count == 0) return;
  const uint64_t width = size_of(dtype);
  file_.read_exact(out, static_cast<uint64_t>(count) * width, entry.begin + static_cast<uint64_t>(first) * width);
}

SafetensorsLayout lay_out_safetensors(const std::vector<SafetensorsSpec>& tensors,
                                      const std::map<std::string, std::string>& metadata) {
  SafetensorsLayout layout;
  std::unordered_set<std::string> names;
  for (const SafetensorsSpec& tensor : tensors) {
    SFFN_CHECK(
        is_good_name(tensor.name) && tensor.name != "__metadata__" && tensor.shape.size() <= SafetensorsFile::kMaxRank,
        "a tensor ", in_quotes(tensor.name), " cannot be written to a safetensors file");
    SFFN_CHECK(names.insert(tensor.name).second, "the tensor ", in_quotes(tensor.name), " stands twice");
    layout.entries.push_back({tensor.name, std::string(file_name_of(tensor.dtype)), tensor.shape, 0, 0});
  }
  std::sort(layout.entries.begin(), layout.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    const size_t type_a = type_index(a.dtype), type_b = type_index(b.dtype);
    return std::tie(type_b, a.name) < std::tie(type_a, b.name);
  });

  Json::Object header;
  Json::Object meta{{"format", "pt"}};
  for (const auto& [key, value] : metadata) meta.push_back({key, value});
  header.push_back({"__metadata__", meta});
  uint64_t next = 0;
  for (SafetensorsEntry& entry : layout.entries) {
    entry.begin = next;
    next += bytes_of(entry, kTypes[type_index(entry.dtype)].bits, entry.name);
    entry.end = next;
    Json::Array shape(entry.shape.begin(), entry.shape.end());
    Json::Object item{{"dtype", entry.dtype}, {"shape", shape}, {"data_offsets", Json::Array{entry.begin, entry.end}}};
    header.push_back({entry.name, item});
  }
  std::string text = Json(header).dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = text.size();
  SFFN_CHECK(header_bytes <= SafetensorsFile::kMaxHeader, "a safetensors header of ", header_bytes, " bytes");
  layout.head.assign(reinterpret_cast<const char*>(&header_bytes), 8);
  layout.head += text;
  for (SafetensorsEntry& entry : layout.entries) {
    entry.begin += layout.head.size();
    entry.end += layout.head.size();
  }
  layout.file_bytes = layout.head.size() + next;
  return layout;
}

void write_safetensors(const std::string& path, const std::vector<SafetensorsData>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsSpec> specs;
  std::unordered_map<std::string, const void*> data;
  for (const SafetensorsData& tensor : tensors) {
    specs.push_back(tensor.spec);
    data[tensor.spec.name] = tensor.data;
  }
  const SafetensorsLayout layout = lay_out_safetensors(specs, metadata);
  const std::string temporary = path + ".tmp";
  File file = File::open(temporary, File::Mode::kTruncate);
  file.reserve(layout.file_bytes);
  file.write(layout.head.data(), layout.head.size());
  for (const SafetensorsEntry& entry : layout.entries) file.write(data.at(entry.name), entry.end - entry.begin);
  file.sync();
  file.close();
  rename_path(temporary, path);
  const std::string parent = std::filesystem::path(path).parent_path().string();
  sync_directory(parent.empty() ? "." : parent);
}

}  // namespace sffn
