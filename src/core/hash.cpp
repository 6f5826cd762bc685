#include "core/hash.h"

#include <xxhash.h>

#include <charconv>
#include <new>

namespace sffn {

struct HashStream::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

std::string Hash128::hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (int i = 0; i < 16; ++i) {
    text[i] = kDigits[high >> (60 - 4 * i) & 15];
    text[16 + i] = kDigits[low >> (60 - 4 * i) & 15];
  }
  return text;
}

Hash128 hash128(const void* data, size_t bytes) {
  const XXH128_hash_t h = XXH3_128bits(data, bytes);
  return {h.high64, h.low64};
}

bool parse_hash(std::string_view hex, Hash128& out) {
  if (hex.size() != 32) return false;
  const auto parse = [](std::string_view digits, uint64_t& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  return parse(hex.substr(0, 16), out.high) && parse(hex.substr(16), out.low);
}

HashStream::HashStream() : state_(std::make_unique<State>()) {
  if (state_->xxh == nullptr) throw std::bad_alloc();
  reset();
}
HashStream::HashStream(HashStream&&) noexcept = default;
HashStream& HashStream::operator=(HashStream&&) noexcept = default;
HashStream::~HashStream() = default;
void HashStream::update(const void* data, size_t bytes) { XXH3_128bits_update(state_->xxh, data, bytes); }
void HashStream::reset() { XXH3_128bits_reset(state_->xxh); }
Hash128 HashStream::digest() const {
  const XXH128_hash_t h = XXH3_128bits_digest(state_->xxh);
  return {h.high64, h.low64};
}

}  // namespace sffn
