// bias_i += rate·sign(mean(load) - load_i). Loads are counts: Σ load and B·load_i are exact in double, their mean is
// not.
#pragma once
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void update_balance_bias(T* bias, const double* load, int64_t blocks, double rate) {
  double total = 0;
  for (int64_t i = 0; i < blocks; ++i) total += load[i];
  for (int64_t i = 0; i < blocks; ++i) {
    const double missing = total - static_cast<double>(blocks) * load[i];
    if (missing > 0) bias[i] += constant<T>(rate);
    if (missing < 0) bias[i] -= constant<T>(rate);
  }
}

}  // namespace sffn::ref
