#include "core/shape.h"

#include "core/error.h"

namespace sffn {

Shape::Shape(std::initializer_list<int64_t> dims) {
  SFFN_CHECK(dims.size() <= kMaxRank, "a shape of ", dims.size(), " dimensions; at most ", kMaxRank);
  for (int64_t dim : dims) {
    SFFN_CHECK(dim >= 0, "dimension ", rank_, " is ", dim, "; it must not be negative");
    dims_[rank_++] = dim;
  }
}

int64_t Shape::operator[](int i) const {
  const int at = i < 0 ? rank_ + i : i;
  SFFN_CHECK(at >= 0 && at < rank_, "dimension ", i, " of a shape of rank ", rank_);
  return dims_[at];
}

int64_t Shape::numel() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= dims_[i];
  return product;
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dims_[i]);
  return text + "]";
}

}  // namespace sffn
