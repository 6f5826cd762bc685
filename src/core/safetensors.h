// safetensors files: u64 N (little-endian), N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [b, e]}}, data.
// The reader is strict: every rule of the format is checked before a byte of data is believed, and nothing is allocated
// before the file is seen to be large enough for it. Format: github.com/huggingface/safetensors.
#pragma once
#include "core/dtype.h"
#include "core/file.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace sffn {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;            // as in the file: "F32", "BF16", "I32", "F64" and types that can be listed but not read
  std::vector<int64_t> shape;   // outermost first, at most 8 dimensions; none: one element
  uint64_t begin = 0, end = 0;  // bytes of the file
  int64_t numel() const;
};

class SafetensorsFile {
 public:
  static constexpr uint64_t kMaxHeader = 100'000'000;
  static constexpr size_t kMaxName = 1024;
  static constexpr size_t kMaxRank = 8;

  // Reads and checks the header. Throws DamagedError naming the file and the tensor.
  explicit SafetensorsFile(File file);
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of their data
  const SafetensorsEntry* find(const std::string& name) const;               // nullptr when absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // out[0, count) = elements [first, first + count). The entry's dtype must be `dtype`, or that of T.
  void read(const SafetensorsEntry&, DType dtype, int64_t first, int64_t count, void* out) const;
  template <class T>
  void read(const SafetensorsEntry& entry, int64_t first, int64_t count, T* out) const {
    read(entry, DTypeOf<T>::value, first, count, out);
  }
  template <class T>
  std::vector<T> read_all(const SafetensorsEntry& entry) const {
    std::vector<T> values(static_cast<size_t>(entry.numel()));
    read(entry, 0, entry.numel(), values.data());
    return values;
  }

 private:
  void parse_header(std::string_view header, uint64_t data_bytes);
  File file_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::kF32;  // f32 | f64 | bf16 | i32
  std::vector<int64_t> shape;
};

// Where everything of a file goes, before there is a file: its first bytes, and every tensor's place after them.
struct SafetensorsLayout {
  std::string head;                       // the length and the header, a multiple of 8 bytes
  std::vector<SafetensorsEntry> entries;  // in file order: wide element types first, then by name
  uint64_t file_bytes = 0;
};

// `metadata` joins {"format": "pt"}. Throws RunError on a name the reader would refuse or that stands twice.
SafetensorsLayout lay_out_safetensors(const std::vector<SafetensorsSpec>& tensors,
                                      const std::map<std::string, std::string>& metadata = {});

struct SafetensorsData {
  SafetensorsSpec spec;
  const void* data = nullptr;
};

// The whole file at once: written beside, fsynced, renamed.
void write_safetensors(const std::string& path, const std::vector<SafetensorsData>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace sffn
