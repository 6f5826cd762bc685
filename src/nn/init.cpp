#include "nn/init.h"

namespace sffn {
namespace {

double standard_deviation(std::span<const double> x) {
  const auto n = static_cast<double>(x.size());
  double sum = 0, squares = 0;
  for (const double value : x) sum += value;
  for (const double value : x) squares += (value - sum / n) * (value - sum / n);
  return std::sqrt(squares / n);
}

void scale(std::span<double> x, double factor) {
  for (double& value : x) value *= factor;
}

}  // namespace

void equalise_row_norms(std::span<double> matrix, int64_t columns) {
  const double before = standard_deviation(matrix);
  const auto width = static_cast<size_t>(columns);
  for (size_t row = 0; row < matrix.size(); row += width) {
    double squares = 0;
    for (const double value : matrix.subspan(row, width)) squares += value * value;
    if (squares > 0) scale(matrix.subspan(row, width), 1 / std::sqrt(squares));
  }
  const double after = standard_deviation(matrix);
  if (after > 0) scale(matrix, before / after);
}

}  // namespace sffn
