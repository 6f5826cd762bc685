// A few numbers a step: the reference serves.
#include "kernels/ref/update_numbers.h"

#include "core/stream.h"
#include "kernels/ops.h"
#include "kernels/ref/tree_sum.h"

namespace sffn::cpu {

void tree_sum(Stream&, Tensor out, const Tensor& x) {
  ref::tree_sum(out.data<double>(), x.data<double>(), x.rows(), x.cols());
}

void update_numbers(Stream&, Tensor numbers, const Tensor& sums, const Tensor& squares, double tokens, double leaves,
                    double clip) {
  ref::update_numbers(numbers.data<double>(), sums.data<double>(), sums.numel() - 1, squares.data<double>()[0], tokens,
                      leaves, clip);
}

}  // namespace sffn::cpu
