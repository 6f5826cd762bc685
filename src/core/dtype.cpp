#include "core/dtype.h"

#include "core/error.h"

namespace sffn {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kI32:
      return 4;
    case DType::kF64:
      return 8;
    case DType::kC128:
      return 16;
  }
  throw RunError("size_of", "not a dtype");
}

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kF64:
      return "f64";
    case DType::kC128:
      return "c128";
  }
  throw RunError("name_of", "not a dtype");
}

}  // namespace sffn
