#pragma once
#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/shape.h"

#include <cstddef>
#include <cstdint>

namespace sffn {

// Non-owning, contiguous, row-major view; trivially copyable. Whoever allocated the bytes owns them. A default-made
// Tensor is undefined and stands for "absent" (no bias, no mask). Transposes are flags of matmul: there are no strides.
class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, Shape shape, DType dtype, Device device)
      : data_(static_cast<std::byte*>(data)), shape_(shape), dtype_(dtype), device_(device), defined_(true) {}

  bool defined() const { return defined_; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t numel() const { return defined_ ? shape_.numel() : 0; }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  int64_t cols() const { return shape_[-1]; }  // the innermost dimension
  int64_t rows() const;                        // the product of all others
  void* raw() const { return data_; }

  // The elements. T must be the dtype.
  template <class T>
  T* data() const {
    SFFN_CHECK(defined_, "an absent tensor was read");
    SFFN_CHECK(dtype_ == DTypeOf<T>::value, "a tensor of ", name_of(dtype_), " was read as ",
               name_of(DTypeOf<T>::value));
    return reinterpret_cast<T*>(data_);
  }
  // As data(), but nullptr when the tensor is absent.
  template <class T>
  T* data_or_null() const {
    return defined_ ? data<T>() : nullptr;
  }

  Tensor view(Shape) const;                          // same bytes, other shape, same count
  Tensor slice(int64_t first, int64_t count) const;  // rows [first, first + count) of the outermost dimension

 private:
  std::byte* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::kF32;
  Device device_;
  bool defined_ = false;
};

}  // namespace sffn
