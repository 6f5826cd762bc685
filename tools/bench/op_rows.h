// Rows of ops at sizes of the caller's, added to `rows`.
#pragma once
#include "kernels/types.h"
#include "tools/bench/harness.h"

namespace sffn {

void add_norm_rows(Harness&, Json& rows, int64_t tokens, int64_t width, DType act, bool layer_norm);
void activation_rows(Harness&, Json& rows, int64_t tokens, int64_t width, DType act, Activation f);
void column_sum_row(Harness&, Json& rows, int64_t tokens, int64_t width, DType act);
void cross_entropy_row(Harness&, Json& rows, int64_t tokens, int64_t vocab, int64_t padded, DType act);
void adamw_row(Harness&, Json& rows, int64_t parameters, DType act);
// rates: FLOPs a second that are predicted forward and backward; 0: those of the device.
void attention_rows(Harness&, Json& rows, const AttentionShape&, DType act, double forward_rate, double backward_rate);

}  // namespace sffn
