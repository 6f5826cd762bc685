#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace sffn {

// Up to four dimensions, outermost first. Rank 0 is a scalar of one element.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);

  int rank() const { return rank_; }
  // Negative indices count from the end: [-1] is the innermost dimension.
  int64_t operator[](int i) const;
  int64_t numel() const;
  std::string str() const;  // "[2, 3]"
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace sffn
