#include "kernels/ref/balance_bias.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/ops.h"

namespace sffn::cpu {

// B numbers once a step: the reference serves every dtype.
void update_balance_bias(Stream&, Tensor bias, const Tensor& load, const Tensor& numbers, double rate) {
  if (numbers.data<double>()[update::kApplied] == 0) return;
  with_accumulate_type(bias.dtype(), [&]<class T>(T) {
    ref::update_balance_bias(bias.data<T>(), load.data<double>(), bias.numel(), rate);
  });
}

}  // namespace sffn::cpu
