#include "core/random.h"

#include <cmath>
#include <numbers>

namespace sffn {

RandomKey random_key(uint64_t seed, std::string_view tensor_name) {
  uint64_t stream = mix64(static_cast<uint64_t>(RandomSite::kInit));
  for (unsigned char c : tensor_name) stream = mix64(stream ^ c);
  return {seed, stream};
}

double random_normal(RandomKey key, uint64_t index) {
  const Random4 r = philox(key, index / 2);
  const int pair = 2 * static_cast<int>(index % 2);
  const double radius_draw = (static_cast<double>(r[pair]) + 1.0) * 0x1p-32;  // (0, 1]
  const double angle_draw = static_cast<double>(r[pair + 1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(radius_draw)) * std::cos(2.0 * std::numbers::pi * angle_draw);
}

}  // namespace sffn
