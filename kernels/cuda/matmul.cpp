// The ops that are one matrix product, with what cuBLASLt can fuse into its epilogue; where it cannot, the product and
// the rest are ops one after the other. Which of both is fixed by shape, type and alignment (describe_products).
#include "kernels/cuda/cublas.h"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

// cuBLASLt's gelu is the tanh form, of an accuracy that is not stated: good enough for bf16, never for fp32.
bool fuses(const Tensor& h, const Tensor& gate, Activation f) {
  return f == Activation::kGelu && !gate.defined() && h.dtype() == DType::kBF16 && h.numel() > 0;
}

cublasLtEpilogue_t gelu_epilogue(bool bias, bool keeps_z) {
  if (keeps_z) return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  return bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

}  // namespace

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  if (c.numel() == 0) return;
  const Product product{.c = c,
                        .a = a,
                        .ta = ta,
                        .b = b,
                        .tb = tb,
                        .accumulate = accumulate,
                        .epilogue = bias.defined() ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
                        .bias = bias};
  if (!run_product(stream, product)) throw RunError("matmul", cat("cuBLASLt has no algorithm for ", product.str()));
}

void matmul_activation_forward(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                               const Tensor& gate, Activation f) {
  if (fuses(h, gate, f)) {
    const cublasLtEpilogue_t epilogue = gelu_epilogue(bias.defined(), z.defined());
    const Product product{.c = h, .a = x, .b = w, .tb = Transpose::kYes, .epilogue = epilogue, .bias = bias, .aux = z};
    if (run_product(stream, product)) return;
  }
  const Tensor argument = z.defined() ? z : h;
  matmul(stream, argument, x, Transpose::kNo, w, Transpose::kYes, bias, Accumulate::kNo);
  activation_forward(stream, h, argument, gate, f);
}

// No bias gradient here: cuBLASLt would round it to bf16, while weight_gradient sums in fp32 what it reads of dz
// anyway.
void matmul_activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dy, const Tensor& v,
                                const Tensor& z, const Tensor& gate, Activation f) {
  if (fuses(dz, gate, f)) {
    const Product product{
        .c = dz, .a = dy, .b = v, .tb = Transpose::kYes, .epilogue = CUBLASLT_EPILOGUE_DGELU, .aux = z};
    if (run_product(stream, product)) return;
  }
  matmul(stream, dz, dy, Transpose::kNo, v, Transpose::kYes, Tensor(), Accumulate::kNo);
  activation_backward(stream, dz, dgate, dz, z, gate, f);
}

void weight_gradient(Stream& stream, Tensor dw, Tensor dbias, const Tensor& dy, const Tensor& x, Transpose tw) {
  const bool transposed = tw == Transpose::kYes;
  const Tensor &a = transposed ? dy : x, &b = transposed ? x : dy;
  if (dbias.defined() && dw.numel() > 0) {
    const Product product{.c = dw,
                          .a = a,
                          .ta = Transpose::kYes,
                          .b = b,
                          .accumulate = Accumulate::kYes,
                          .epilogue = transposed ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_BGRADA,
                          .dbias = dbias};
    if (run_product(stream, product)) return;
  }
  matmul(stream, dw, a, Transpose::kYes, b, Transpose::kNo, Tensor(), Accumulate::kYes);
  if (dbias.defined()) column_sum(stream, dbias, dy);
}

}  // namespace sffn::cuda
