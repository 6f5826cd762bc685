// cuBLASLt on the executor's device: the CPU's products, with epilogues as plain loops. As strict as cublasLt.h: what
// an algorithm was asked for, in shape, type, epilogue and alignment, is what it may be used for, and its workspace is
// written. SFFN_SIMT_PLAIN_PRODUCTS=1: no algorithm fuses more than a bias.
#include "core/stream.h"
#include "kernels/ops.h"
#include "kernels/ref/activation.h"

#include "simt/executor.h"
#include "simt/stream.h"
#include <cublasLt.h>

#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

using namespace sffn;

struct cublasLtContext {};
struct cublasLtMatmulDescription {
  cublasOperation_t ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void *vector = nullptr, *aux = nullptr;
  int32_t vector_type = CUDA_R_32F, aux_type = CUDA_R_32F;
  int64_t aux_leading = 0;
};
struct cublasLtMatrixDescription {
  cudaDataType_t type;
  int64_t rows, columns;

  DType dtype() const { return type == CUDA_R_16BF ? DType::kBF16 : DType::kF32; }
  // The same elements by rows: the transpose.
  Tensor by_rows(const void* data) const {
    return Tensor(const_cast<void*>(data), {columns, rows}, dtype(), Device::cpu());
  }
};
struct cublasLtMatmulPreferences {
  size_t workspace = 0;
  uint32_t reductions = ~0u, align[4] = {256, 256, 256, 256};  // of a, b, c, d
};

namespace {

using Description = cublasLtMatmulDescription;
using Layout = cublasLtMatrixDescription;

constexpr size_t kWorkspace = 1024;

bool adds_bias(cublasLtEpilogue_t epilogue) { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
bool has_aux(cublasLtEpilogue_t epilogue) { return (epilogue & 128) != 0; }
bool sums(cublasLtEpilogue_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}
bool is_plain(cublasLtEpilogue_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_DEFAULT || epilogue == CUBLASLT_EPILOGUE_BIAS || sums(epilogue);
}

uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 256;
  return static_cast<uint32_t>(address & -address);
}

float read(const void* data, DType dtype, int64_t i) {
  return dtype == DType::kBF16 ? static_cast<float>(static_cast<const bfloat16*>(data)[i])
                               : static_cast<const float*>(data)[i];
}
void write(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::kBF16)
    static_cast<bfloat16*>(data)[i] = value;
  else
    static_cast<float*>(data)[i] = value;
}

// d [m,n] = op(a) [m,k] · op(b) [k,n], all by columns.
struct Shape3 {
  int64_t m, n, k;
};
Shape3 shape_of(const Description& desc, const Layout& a, const Layout& b) {
  return {desc.ta == CUBLAS_OP_T ? a.columns : a.rows, desc.tb == CUBLAS_OP_T ? b.rows : b.columns,
          desc.ta == CUBLAS_OP_T ? a.rows : a.columns};
}

bool fits(const Description& desc, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const Shape3 s = shape_of(desc, a, b);
  const int64_t depth = desc.tb == CUBLAS_OP_T ? b.columns : b.rows;
  return depth == s.k && d.rows == s.m && d.columns == s.n && c.rows == s.m && c.columns == s.n && a.type == b.type &&
         c.type == d.type && (d.type == a.type || d.type == CUDA_R_32F) && s.m > 0 && s.n > 0 && s.k > 0;
}

// What an algorithm is for.
cublasLtMatmulAlgo_t algorithm_for(const Description& desc, const Layout& a, const Layout& b, const Layout& d,
                                   const uint32_t (&align)[4]) {
  const Shape3 s = shape_of(desc, a, b);
  const auto pair = [](uint64_t high, uint64_t low) { return high << 32 | low; };
  return {{static_cast<uint64_t>(s.m), static_cast<uint64_t>(s.n), static_cast<uint64_t>(s.k),
           pair(a.type, d.type) << 4 | static_cast<uint64_t>(desc.ta) << 1 | static_cast<uint64_t>(desc.tb),
           desc.epilogue, pair(align[0], align[1]), pair(align[2], align[3]),
           pair(alignment_of(desc.vector), alignment_of(desc.aux))}};
}

// Whether data of these alignments may go where an algorithm was asked for those.
bool serves(const cublasLtMatmulAlgo_t& asked, const cublasLtMatmulAlgo_t& given) {
  for (int i = 0; i < 5; ++i) {
    if (asked.data[i] != given.data[i]) return false;
  }
  for (int i = 5; i < 8; ++i) {
    const uint64_t want = asked.data[i], have = given.data[i];
    if ((have >> 32) < (want >> 32) || (have & 0xffffffff) < (want & 0xffffffff)) return false;
  }
  return true;
}

struct Call {
  Description desc;
  Layout a, b, d;
  const void *left, *right;
  void *out, *workspace;
  size_t workspace_bytes;
  bool accumulate;

  DType vector_dtype() const { return desc.vector_type == CUDA_R_16BF ? DType::kBF16 : DType::kF32; }

  // By rows: dᵀ = op(b)ᵀ·op(a)ᵀ, and b's memory is bᵀ.
  void multiply(const Tensor& into, const Tensor& bias) const {
    Stream stream(cpu_runtime());
    cpu::matmul(stream, into, b.by_rows(right), desc.tb == CUBLAS_OP_T ? Transpose::kYes : Transpose::kNo,
                a.by_rows(left), desc.ta == CUBLAS_OP_T ? Transpose::kYes : Transpose::kNo, bias,
                accumulate ? Accumulate::kYes : Accumulate::kNo);
  }

  void run() const {
    std::memset(workspace, 0xff, workspace_bytes);
    std::vector<float> bias;
    if (adds_bias(desc.epilogue)) {
      for (int64_t i = 0; i < d.rows; ++i) bias.push_back(read(desc.vector, vector_dtype(), i));
    }
    const Tensor bias_of_row = bias.empty() ? Tensor() : Tensor(bias.data(), {d.rows}, DType::kF32, Device::cpu());
    if (is_plain(desc.epilogue)) {
      multiply(d.by_rows(out), bias_of_row);
      if (sums(desc.epilogue)) sum_over_depth();
      return;
    }
    std::vector<float> product(static_cast<size_t>(d.rows * d.columns));
    multiply(Tensor(product.data(), {d.columns, d.rows}, DType::kF32, Device::cpu()), bias_of_row);
    finish(product);
  }

  void finish(const std::vector<float>& product) const {
    const DType aux_dtype = desc.aux_type == CUDA_R_16BF ? DType::kBF16 : DType::kF32;
    for (int64_t j = 0; j < d.columns; ++j) {
      for (int64_t i = 0; i < d.rows; ++i) {
        const int64_t at = j * d.rows + i, aux_at = j * desc.aux_leading + i;
        const float value = product[static_cast<size_t>(at)];
        if (desc.epilogue == CUBLASLT_EPILOGUE_DGELU) {
          const float z = read(desc.aux, aux_dtype, aux_at);
          write(out, d.dtype(), at, value * ref::activation_derivative(z, Activation::kGelu));
          continue;
        }
        if (has_aux(desc.epilogue)) write(desc.aux, aux_dtype, aux_at, value);
        write(out, d.dtype(), at, ref::activation(value, Activation::kGelu));
      }
    }
  }

  // Rows of op(a), or columns of op(b).
  void sum_over_depth() const {
    const bool of_a = desc.epilogue == CUBLASLT_EPILOGUE_BGRADA;
    const Layout& layout = of_a ? a : b;
    const bool depth_is_rows = of_a ? desc.ta == CUBLAS_OP_T : desc.tb == CUBLAS_OP_N;
    const int64_t depth = depth_is_rows ? layout.rows : layout.columns;
    const int64_t count = depth_is_rows ? layout.columns : layout.rows;
    for (int64_t i = 0; i < count; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += read(of_a ? left : right, layout.dtype(), depth_is_rows ? i * layout.rows + k : k * layout.rows + i);
      }
      write(desc.vector, vector_dtype(), i, sum);
    }
  }
};

template <class T>
cublasStatus_t take(T& into, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&into, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t destroy(T* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS         ? "success"
         : status == CUBLAS_STATUS_INVALID_VALUE ? "an invalid value"
                                                 : "not supported";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t, cudaDataType_t) {
  *made = new Description;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) { return destroy(description); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(description->ta, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(description->tb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(description->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(description->vector, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return take(description->vector_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return take(description->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return take(description->aux_leading, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
      return take(description->aux_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  if (leading != static_cast<int64_t>(rows)) return CUBLAS_STATUS_NOT_SUPPORTED;  // no caller has gaps
  *made = new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = new cublasLtMatmulPreferences;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return destroy(preference); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return take(preference->workspace, value, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return take(preference->reductions, value, bytes);
  return take(preference->align[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                              int wanted, cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  const cublasLtEpilogue_t epilogue = desc->epilogue;
  if (!fits(*desc, *a, *b, *c, *d) || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (preference->workspace < kWorkspace || (preference->reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if ((adds_bias(epilogue) || sums(epilogue)) && desc->vector_type != d->type) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (has_aux(epilogue) && (desc->aux_leading < d->rows || desc->aux_leading % 8 != 0 || desc->aux_type != d->type)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const char* plain = std::getenv("SFFN_SIMT_PLAIN_PRODUCTS");
  const bool fuses = epilogue != CUBLASLT_EPILOGUE_DEFAULT && epilogue != CUBLASLT_EPILOGUE_BIAS;
  if (plain != nullptr && std::string_view(plain) == "1" && fuses) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {algorithm_for(*desc, *a, *b, *d, preference->align), kWorkspace, CUBLAS_STATUS_SUCCESS};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, CUstream_st* stream) {
  const auto factor = [](const void* value) { return *static_cast<const float*>(value); };
  if (!fits(*desc, *a_layout, *b_layout, *c_layout, *d_layout) || c != d || factor(alpha) != 1 ||
      (factor(beta) != 0 && factor(beta) != 1) || workspace_bytes < kWorkspace) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const uint32_t align[4] = {alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d)};
  if (!serves(*algorithm, algorithm_for(*desc, *a_layout, *b_layout, *d_layout, align))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Call call{.desc = *desc,
                  .a = *a_layout,
                  .b = *b_layout,
                  .d = *d_layout,
                  .left = a,
                  .right = b,
                  .out = d,
                  .workspace = workspace,
                  .workspace_bytes = workspace_bytes,
                  .accumulate = factor(beta) == 1};
  if (call.accumulate && !is_plain(desc->epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
  simt::enqueue(stream, [call] {
    const simt::DeviceMemoryAccess access;
    call.run();
  });
  return CUBLAS_STATUS_SUCCESS;
}
