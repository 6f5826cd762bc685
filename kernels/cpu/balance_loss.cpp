#include "kernels/ref/balance_loss.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/ops.h"

namespace sffn::cpu {

// S·B numbers: f32 is computed in double by the reference itself.
void balance_loss(Stream&, Tensor loss, Tensor dsums, const Tensor& sums, const Tensor& counts, BalanceLoss kind,
                  double tokens, double weight, double gradient_weight) {
  with_accumulate_type(sums.dtype(), [&]<class T>(T) {
    using Computed = std::conditional_t<kIsReference<T>, T, double>;
    ref::balance_loss<Computed>(loss.data<T>(), dsums.data<T>(), sums.data<T>(), counts.data_or_null<int32_t>(), kind,
                                sums.rows(), sums.cols(), tokens, weight, gradient_weight);
  });
}

}  // namespace sffn::cpu
