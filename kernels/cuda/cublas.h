// Products of row-major matrices through cuBLASLt, and what its epilogues do to them on the way.
#pragma once
#include "core/stream.h"
#include "kernels/types.h"

#include <cublasLt.h>

#include <string>

namespace sffn::cuda {

// c = op(a)·op(b) (+ c)                          op(a) [M,K]  op(b) [K,N]  c [M,N] of the inputs' type or f32, not
// empty
//   BIAS              c += bias                               bias [N] f32; rounded to the type of c first
//   GELU, GELU_BIAS   c = gelu(c (+ bias)), the tanh form     _AUX: gelu's argument is written to aux, like c
//   DGELU             c ⊙= gelu'(aux)
//   BGRADA, BGRADB    dbias += Σ_k op(b)[k,:] [N], or Σ_k op(a)[:,k] [M]           dbias f32, as c is
struct Product {
  Tensor c, a;
  Transpose ta = Transpose::kNo;
  Tensor b;
  Transpose tb = Transpose::kNo;
  Accumulate accumulate = Accumulate::kNo;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  Tensor bias = {}, dbias = {}, aux = {};

  std::string str() const;
};

// False, and nothing done, where cuBLASLt has no algorithm for the product with this epilogue. What it has is asked
// once for each shape, type and alignment and kept with the stream: an answer never changes.
bool run_product(Stream&, const Product&);

}  // namespace sffn::cuda
