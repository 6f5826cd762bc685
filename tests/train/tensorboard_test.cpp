#include "train/hooks/tensorboard.h"

#include "support/catch.h"

using namespace sffn;

namespace {
std::string hex(const std::string& data) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char c : data) (text += kDigits[c >> 4]) += kDigits[c & 15];
  return text;
}
}  // namespace

// Kills: a wrong polynomial, or a checksum that is not reflected.
TEST_CASE("crc32c gives the published check values", "[tensorboard]") {
  CHECK(tensorboard::crc32c("123456789") == 0xE3069283u);
  CHECK(tensorboard::crc32c(std::string(32, '\0')) == 0x8A9136AAu);
}

// Kills: an unmasked checksum, a field in the wrong place, a length that counts itself.
TEST_CASE("event records equal those an independent decoder reads", "[tensorboard]") {
  CHECK(hex(tensorboard::frame(tensorboard::version_event(1700000000.0))) ==
        "1800000000000000a37f4b22"
        "0900000040fc54d9411a0d627261696e2e4576656e743a32"
        "eced8f9d");
  CHECK(hex(tensorboard::frame(tensorboard::scalar_event(1700000001.5, 10, "loss/train", 3.25f))) ==
        "200000000000000029eda950"
        "0900006040fc54d941100a2a130a110a0a6c6f73732f747261696e1500005040"
        "e5f9c71b");
}
