#include "kernels/cpu/capabilities.h"

#include "core/error.h"
#include "kernels/cpu/gemm.h"

namespace sffn::cpu {

bool cpu_has_bf16_matmul() {
  static const bool native = gemm_has_native_bf16();
  return native;
}

std::string describe_cpu_kernels() {
  return cat(gemm_library(), ", bf16 matmul ",
             cpu_has_bf16_matmul() ? "native (avx512_bf16)" : "in fp32 (no avx512_bf16: values still round to bf16)");
}

}  // namespace sffn::cpu
