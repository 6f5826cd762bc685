// The extra losses over the blocks of a layer, from sums over the tokens of a group: of probabilities (switch, entropy)
// or of weights (cv2). Switch: Fedus et al., arXiv 2101.03961, eqs. 4-6; entropy: Csordás et al., arXiv 2310.10837,
// section 5; squared coefficient of variation: Shazeer et al., arXiv 1701.06538, eq. 7.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/routing.h"

#include <vector>

namespace sffn::ref {

// The loss of one group of B blocks, and its derivative by sums in d.
// L = B·Σ f_i P_i, P = sums/tokens:  dL/dsums_i = B·f_i/tokens
template <class T>
T switch_loss(T* d, const T* sums, const int32_t* counts, int64_t blocks, double tokens) {
  double choices = 0;
  for (int64_t i = 0; i < blocks; ++i) choices += counts[i];
  T loss = 0;
  for (int64_t i = 0; i < blocks; ++i) {
    const double share = choices > 0 ? counts[i] / choices : 0;
    d[i] = constant<T>(static_cast<double>(blocks) * share / tokens);
    loss += d[i] * sums[i];
  }
  return loss;
}

// L = Σ P_i log P_i:  dL/dsums_i = (log P_i + 1)/tokens. Where P_i is 0, so is every probability behind it, and the
// slope, which only ever multiplies them, is taken as 0.
template <class T>
T entropy_loss(T* d, const T* sums, int64_t blocks, double tokens) {
  T loss = 0;
  for (int64_t i = 0; i < blocks; ++i) {
    d[i] = T(0);
    if (real(sums[i]) == 0) continue;
    const T p = sums[i] / constant<T>(tokens), log_p = std::log(p);
    loss += p * log_p;
    d[i] = (log_p + T(1)) / constant<T>(tokens);
  }
  return loss;
}

// L = v/m², m = mean(sums), v = mean((sums - m)²):  dL/dsums_i = (2/B)·((sums_i - m) - v/m)/m²
template <class T>
T cv2_loss(T* d, const T* sums, int64_t blocks) {
  const T count = constant<T>(static_cast<double>(blocks));
  T mean = 0, variance = 0;
  for (int64_t i = 0; i < blocks; ++i) mean += sums[i] / count;
  for (int64_t i = 0; i < blocks; ++i) variance += square(sums[i] - mean) / count;
  const bool zero = real(mean) == 0;
  for (int64_t i = 0; i < blocks; ++i) {
    d[i] = zero ? T(0) : T(2) / count * (sums[i] - mean - variance / mean) / square(mean);
  }
  return zero ? T(0) : variance / square(mean);
}

// Computed in T, stored as Stored; dsums may be sums.
template <class T, class Stored>
void balance_loss(Stored* loss, Stored* dsums, const Stored* sums, const int32_t* counts, BalanceLoss kind,
                  int64_t groups, int64_t blocks, double tokens, double weight, double gradient_weight) {
  std::vector<T> in(static_cast<size_t>(blocks)), d(in);
  T total = 0;
  for (int64_t s = 0; s < groups; ++s) {
    for (int64_t i = 0; i < blocks; ++i) in[i] = T(sums[s * blocks + i]), d[i] = T(0);
    if (tokens > 0) {
      total += kind == BalanceLoss::kSwitch    ? switch_loss(d.data(), in.data(), counts + s * blocks, blocks, tokens)
               : kind == BalanceLoss::kEntropy ? entropy_loss(d.data(), in.data(), blocks, tokens)
                                               : cv2_loss(d.data(), in.data(), blocks);
    }
    const T scale = constant<T>(gradient_weight / static_cast<double>(groups));
    for (int64_t i = 0; i < blocks; ++i) dsums[s * blocks + i] = static_cast<Stored>(scale * d[i]);
  }
  *loss += static_cast<Stored>(constant<T>(weight / static_cast<double>(groups)) * total);
}

}  // namespace sffn::ref
