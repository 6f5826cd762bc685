// The checks of the ops of product keys; see contract.cpp.
#include "kernels/contract_call.h"
#include "kernels/ops.h"

namespace sffn::contract {
namespace {

struct Sizes {
  int64_t H = 0, N = 0, C1 = 0, C2 = 0;
};

Sizes check_halves(const Call& call, const char* name1, const Tensor& s1, const char* name2, const Tensor& s2) {
  call.accumulator(name1, s1);
  if (s1.shape().rank() != 3 || s1.shape()[0] < 1 || s1.cols() < 1)
    call.refuse(name1, s1, "[H, N, C1], none of H, C1 0");
  call.here(name2, s2);
  const int64_t H = s1.shape()[0], N = s1.shape()[1];
  if (s2.shape().rank() != 3 || s2.cols() < 1) call.refuse(name2, s2, cat("[", H, ", ", N, ", C2], C2 not 0"));
  call.exact(name2, s2, s1.dtype(), {H, N, s2.cols()});
  call.require(s1.cols() <= INT32_MAX / s2.cols(), s1.cols(), " times ", s2.cols(), " cells; expected less than 2^31");
  return {.H = H, .N = N, .C1 = s1.cols(), .C2 = s2.cols()};
}

// t is [N, H·k].
void check_chosen(const Call& call, const char* name, const Tensor& t, const Sizes& s) {
  call.here(name, t);
  const std::string expected = cat("[", s.N, ", a multiple of ", s.H, "]");
  if (t.shape().rank() != 2 || t.cols() < 1 || t.cols() % s.H != 0) call.refuse(name, t, expected);
  call.exact(name, t, t.dtype(), {s.N, t.cols()});
}

void check_scores(const Call& call, const char* name, const Tensor& scores, const Tensor& cells, const Sizes& s,
                  DType dtype) {
  if (cells.defined()) {
    check_chosen(call, "cells", cells, s);
    call.exact("cells", cells, DType::kI32, cells.shape());
    call.exact(name, scores, dtype, cells.shape());
  } else {
    call.require(s.H == 1, "the half scores are of ", s.H, " heads; expected 1 where cells is absent");
    call.exact(name, scores, dtype, {s.N, s.C1 * s.C2});
  }
}

void check_parts(const Call& call, const Tensor& parts, const Tensor& x) {
  call.floating("parts", parts);
  if (parts.shape().rank() != 3) call.refuse("parts", parts, "three dimensions");
  call.exact("x", x, parts.dtype(), {parts.shape()[1], parts.shape()[0] * parts.shape()[2]});
}

}  // namespace

void product_top_k(Stream& stream, Tensor cells, Tensor nans, const Tensor& s1, const Tensor& s2) {
  const Call call(stream, __func__);
  const Sizes s = check_halves(call, "s1", s1, "s2", s2);
  check_chosen(call, "cells", cells, s);
  call.exact("cells", cells, DType::kI32, cells.shape());
  call.require(cells.cols() / s.H <= s.C1 * s.C2, cells.cols() / s.H, " cells a head are asked of ", s.C1 * s.C2,
               "; expected at most all of them");
  call.exact_or_absent("nans", nans, DType::kF64, {1});
}

void product_scores_forward(Stream& stream, Tensor scores, const Tensor& s1, const Tensor& s2, const Tensor& cells) {
  const Call call(stream, __func__);
  const Sizes s = check_halves(call, "s1", s1, "s2", s2);
  check_scores(call, "scores", scores, cells, s, s1.dtype());
}

void product_scores_backward(Stream& stream, Tensor ds1, Tensor ds2, const Tensor& dscores, const Tensor& cells) {
  const Call call(stream, __func__);
  const Sizes s = check_halves(call, "ds1", ds1, "ds2", ds2);
  check_scores(call, "dscores", dscores, cells, s, ds1.dtype());
}

void split_columns(Stream& stream, Tensor parts, const Tensor& x) { check_parts(Call(stream, __func__), parts, x); }

void join_columns(Stream& stream, Tensor x, const Tensor& parts, Accumulate) {
  check_parts(Call(stream, __func__), parts, x);
}

}  // namespace sffn::contract
