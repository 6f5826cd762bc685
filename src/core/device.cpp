#include "core/device.h"

namespace sffn {

std::string Device::str() const {
  switch (kind) {
    case Kind::kCpu:
      return "cpu";
    case Kind::kCuda:
      return "cuda:" + std::to_string(index);
    case Kind::kMeta:
      return "meta";
  }
  return "?";
}

}  // namespace sffn
