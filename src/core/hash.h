#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace sffn {

// XXH3-128.
struct Hash128 {
  uint64_t high = 0, low = 0;
  std::string hex() const;  // 32 lower-case digits, high half first
  auto operator<=>(const Hash128&) const = default;
};

Hash128 hash128(const void* data, size_t bytes);
inline Hash128 hash128(std::string_view text) { return hash128(text.data(), text.size()); }
bool parse_hash(std::string_view hex, Hash128& out);  // false unless exactly 32 hex digits

// The same hash over data that arrives in pieces.
class HashStream {
 public:
  HashStream();
  HashStream(HashStream&&) noexcept;
  HashStream& operator=(HashStream&&) noexcept;
  ~HashStream();
  void update(const void* data, size_t bytes);
  void reset();
  Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sffn
