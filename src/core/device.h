#pragma once
#include <cstdint>
#include <string>

namespace sffn {

// Where bytes live and work runs. `meta` owns address space without memory: the model runs on it to be measured
// (memory, FLOPs) before anything is allocated.
struct Device {
  enum class Kind : uint8_t { kCpu, kCuda, kMeta };
  Kind kind = Kind::kCpu;
  int index = 0;

  static Device cpu() { return {Kind::kCpu, 0}; }
  static Device cuda(int index) { return {Kind::kCuda, index}; }
  static Device meta() { return {Kind::kMeta, 0}; }
  std::string str() const;  // "cpu", "cuda:1", "meta"
  bool operator==(const Device&) const = default;
};

}  // namespace sffn
