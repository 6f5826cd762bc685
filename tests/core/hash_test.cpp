#include "core/hash.h"

#include "support/catch.h"

#include <algorithm>
#include <string>

using namespace sffn;

// Kills: another algorithm or word order. The hash of nothing is the constant of the XXH3 specification.
TEST_CASE("the hash is XXH3-128 with the high half first", "[hash]") {
  CHECK(hash128("").hex() == "99aa06d3014798d86001c324468d497f");
  CHECK(hash128("a") != hash128("b"));
  CHECK(hash128("ab") != hash128("ba"));
}

// Kills: a stream that forgets what came before, or cannot start again.
TEST_CASE("data in pieces hashes as data at once", "[hash]") {
  std::string data(100'000, ' ');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 131 % 251);
  HashStream stream;
  for (int round = 0; round < 2; ++round) {
    for (size_t at = 0, size = 1; at < data.size(); at += size, size = size * 3 % 5003 + 1) {
      stream.update(data.data() + at, std::min(size, data.size() - at));
    }
    CHECK(stream.digest() == hash128(data));
    CHECK(stream.digest() == hash128(data));  // taking it changes nothing
    stream.reset();
  }
  CHECK(stream.digest() == hash128(""));
}

// Kills: accepting short, long or signed text, or upper-case garbage.
TEST_CASE("a hash is read back from its 32 digits only", "[hash]") {
  const Hash128 hash = hash128("data");
  Hash128 read;
  REQUIRE(parse_hash(hash.hex(), read));
  CHECK(read == hash);
  CHECK(hash.hex().size() == 32);
  CHECK((Hash128{1, 0x20}.hex()) == "00000000000000010000000000000020");
  const std::string hex = hash.hex();
  CHECK_FALSE(parse_hash("", read));
  CHECK_FALSE(parse_hash(hex.substr(1), read));
  CHECK_FALSE(parse_hash(hex + "0", read));
  CHECK_FALSE(parse_hash("g" + hex.substr(1), read));
  CHECK_FALSE(parse_hash("-" + hex.substr(1), read));
  CHECK_FALSE(parse_hash(hex.substr(0, 31) + " ", read));
}
