#include "core/tensor.h"

namespace sffn {

int64_t Tensor::rows() const {
  int64_t product = 1;
  for (int i = 0; i + 1 < shape_.rank(); ++i) product *= shape_[i];
  return product;
}

Tensor Tensor::view(Shape shape) const {
  SFFN_CHECK(defined_ && shape.numel() == numel(), "a tensor of shape ", shape_.str(), " viewed as ", shape.str());
  return Tensor(data_, shape, dtype_, device_);
}

Tensor Tensor::slice(int64_t first, int64_t count) const {
  SFFN_CHECK(defined_ && shape_.rank() >= 1, "slice of a scalar or absent tensor");
  SFFN_CHECK(first >= 0 && count >= 0 && first + count <= shape_[0], "rows [", first, ", ", first + count,
             ") of a tensor of shape ", shape_.str());
  const int64_t inner = shape_[0] == 0 ? 0 : numel() / shape_[0];
  Shape part;
  switch (shape_.rank()) {
    case 1:
      part = {count};
      break;
    case 2:
      part = {count, shape_[1]};
      break;
    case 3:
      part = {count, shape_[1], shape_[2]};
      break;
    default:
      part = {count, shape_[1], shape_[2], shape_[3]};
      break;
  }
  return Tensor(data_ + first * inner * static_cast<int64_t>(size_of(dtype_)), part, dtype_, device_);
}

}  // namespace sffn
