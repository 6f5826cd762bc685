// cuBLASLt reads columns first, so a row-major matrix is its transpose there, and cᵀ = op(b)ᵀ·op(a)ᵀ is what it is
// asked for. fp32 is computed in fp32, never TF32; bf16 products accumulate in fp32. The bias of a bf16 result is
// rounded to bf16, and for operands that are not aligned to 16 bytes cuBLASLt rounds the product before it adds it.
// Types and alignments of the vectors and of aux are those that cublasLt.h demands
// (CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, _EPILOGUE_AUX_LD, …_POINTER).
#include "kernels/cuda/cublas.h"

#include "kernels/cuda/profile.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stream.h"
#include "kernels/ops.h"

#include <algorithm>
#include <compare>
#include <map>
#include <memory>
#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr size_t kMostWorkspace = size_t{32} << 20;
constexpr size_t kAlign = 256;  // of the parts of the workspace, and the most that cuBLASLt asks about

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw RunError("cuBLASLt", cat(what, ": ", cublasLtGetStatusString(status)));
}

// Owners of cuBLASLt's objects.
template <auto kDestroy>
struct Destroy {
  template <class T>
  void operator()(T* object) const {
    (void)kDestroy(object);
  }
};
template <class Handle, auto kDestroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<kDestroy>>;
using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// The bytes the address is a multiple of, and an address of which that is true.
uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | kAlign;
  return static_cast<uint32_t>(address & -address);
}
const void* any_address(uint32_t alignment) { return reinterpret_cast<const void*>(uintptr_t{alignment}); }

bool reads_bias(cublasLtEpilogue_t epilogue) { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
bool has_aux(cublasLtEpilogue_t epilogue) {
  constexpr auto kAux =
      static_cast<unsigned>(CUBLASLT_EPILOGUE_GELU_AUX) & ~static_cast<unsigned>(CUBLASLT_EPILOGUE_GELU);
  return (epilogue & kAux) != 0;
}
bool sums_columns(cublasLtEpilogue_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

const char* epilogue_name(cublasLtEpilogue_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
      return "";
    case CUBLASLT_EPILOGUE_BIAS:
      return " + bias";
    case CUBLASLT_EPILOGUE_GELU:
      return ", gelu";
    case CUBLASLT_EPILOGUE_GELU_BIAS:
      return " + bias, gelu";
    case CUBLASLT_EPILOGUE_GELU_AUX:
      return ", kept, gelu";
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
      return " + bias, kept, gelu";
    case CUBLASLT_EPILOGUE_DGELU:
      return ", gelu'";
    case CUBLASLT_EPILOGUE_BGRADA:
    case CUBLASLT_EPILOGUE_BGRADB:
      return ", bias gradient";
    default:
      return ", another epilogue";
  }
}

// A product without its memory.
struct Problem {
  int64_t M, N, K;
  bool ta, tb, accumulate;
  cublasLtEpilogue_t epilogue;
  DType input, output;
  uint32_t align_a, align_b, align_c, align_bias, align_aux;

  auto operator<=>(const Problem&) const = default;

  std::string str() const {
    return cat(M, "x", N, "x", K, ta ? " T" : " N", tb ? "T " : "N ", name_of(input), " to ", name_of(output),
               accumulate ? ", added" : "", epilogue_name(epilogue));
  }
};

Problem problem_of(const Product& p) {
  const int64_t K = p.ta == Transpose::kYes ? p.a.rows() : p.a.cols();
  const bool empty = K == 0;  // then a product of zeros, of depth 1
  // Vectors of another type, and sums, pass through the workspace.
  const bool direct_bias = p.bias.defined() && p.bias.dtype() == p.c.dtype();
  return {.M = p.c.rows(),
          .N = p.c.cols(),
          .K = empty ? 1 : K,
          .ta = p.ta == Transpose::kYes,
          .tb = p.tb == Transpose::kYes,
          .accumulate = p.accumulate == Accumulate::kYes,
          .epilogue = p.epilogue,
          .input = p.a.dtype(),
          .output = p.c.dtype(),
          .align_a = empty ? uint32_t{kAlign} : alignment_of(p.a.raw()),
          .align_b = empty ? uint32_t{kAlign} : alignment_of(p.b.raw()),
          .align_c = alignment_of(p.c.raw()),
          .align_bias = direct_bias ? alignment_of(p.bias.raw()) : uint32_t{kAlign},
          .align_aux = p.aux.defined() ? alignment_of(p.aux.raw()) : uint32_t{kAlign}};
}

struct Plan {
  bool found = false;  // an algorithm for the product with its epilogue
  Description description;
  Layout left, right, result;  // op(b)ᵀ, op(a)ᵀ, cᵀ
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace = 0;
};

// What the products of a stream keep: a model runs a few dozen, each thousands of times.
struct Plans {
  Library library;
  std::map<Problem, Plan> by_problem;

  Plans() {
    cublasLtHandle_t handle = nullptr;
    check_blas(cublasLtCreate(&handle), "cublasLtCreate");
    library.reset(handle);
  }
};

cudaDataType_t type_of(DType dtype) { return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

Layout layout_of(DType dtype, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_blas(cublasLtMatrixLayoutCreate(&layout, type_of(dtype), static_cast<uint64_t>(rows),
                                        static_cast<uint64_t>(columns), rows),
             "a layout");
  return Layout(layout);
}

template <class T>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_blas(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value), "an attribute");
}
template <class T>
void prefer(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value), "a preference");
}

// The heuristics take alignments of the bias and of aux from their addresses, which are those of a call only later.
Description describe(const Problem& p) {
  cublasLtMatmulDesc_t object = nullptr;
  check_blas(cublasLtMatmulDescCreate(&object, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
  Description description(object);
  const auto type = static_cast<int32_t>(type_of(p.output));
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, p.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(description, CUBLASLT_MATMUL_DESC_TRANSB, p.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
  if (reads_bias(p.epilogue) || sums_columns(p.epilogue)) {
    set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
    set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, any_address(p.align_bias));
  }
  if (has_aux(p.epilogue)) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, type);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.N);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, any_address(p.align_aux));
  }
  return description;
}

Preference preference_for(const Problem& p) {
  cublasLtMatmulPreference_t object = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&object), "a preference");
  Preference preference(object);
  prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
  // Parts of a sum over K meet in fp32, so that a bf16 result is rounded once.
  prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.align_b);
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.align_a);
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.align_c);
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.align_c);
  return preference;
}

Plan prepare(cublasLtHandle_t library, const Problem& p) {
  constexpr int64_t kAuxColumns = 8;  // the leading dimension of aux is a multiple of it
  Plan plan;
  if (has_aux(p.epilogue) && p.N % kAuxColumns != 0) return plan;
  plan.description = describe(p);
  plan.left = p.tb ? layout_of(p.input, p.K, p.N) : layout_of(p.input, p.N, p.K);
  plan.right = p.ta ? layout_of(p.input, p.M, p.K) : layout_of(p.input, p.K, p.M);
  plan.result = layout_of(p.output, p.N, p.M);
  const Preference preference = preference_for(p);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(library, plan.description.get(), plan.left.get(), plan.right.get(),
                                     plan.result.get(), plan.result.get(), preference.get(), 1, &best, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return plan;  // types, epilogue
  check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
  plan.found = found == 1 && best.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = best.algo;
  plan.workspace = best.workspaceSize;
  return plan;
}

Plans& plans_of(Stream& stream) {
  std::shared_ptr<void>& kept = native(stream).matmul_plans;
  if (!kept) kept = std::make_shared<Plans>();
  return *static_cast<Plans*>(kept.get());
}

const Plan& plan_for(Plans& plans, const Problem& problem) {
  const auto found = plans.by_problem.find(problem);
  if (found != plans.by_problem.end()) return found->second;
  return plans.by_problem.emplace(problem, prepare(plans.library.get(), problem)).first->second;
}

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// What a call has beside cuBLASLt's own workspace: a vector of the type of c, where it is not the caller's, and zeros
// in place of operands without elements.
struct Scratch {
  std::byte* blas;
  Tensor vector, zeros;
};

Scratch scratch_for(Stream& stream, const Product& p, const Plan& plan) {
  const Tensor& given = p.dbias.defined() ? p.dbias : p.bias;
  const bool own_vector = given.defined() && (p.dbias.defined() || given.dtype() != p.c.dtype());
  const int64_t vector = own_vector ? given.numel() : 0;
  const int64_t zeros = p.a.numel() == 0 ? std::max(p.c.rows(), p.c.cols()) : 0;
  const size_t vector_at = aligned(plan.workspace);
  const size_t zeros_at = vector_at + aligned(static_cast<size_t>(vector) * size_of(p.c.dtype()));
  Scratch scratch;
  scratch.blas =
      static_cast<std::byte*>(native(stream).workspace(zeros_at + static_cast<size_t>(zeros) * size_of(p.a.dtype())));
  if (own_vector) scratch.vector = Tensor(scratch.blas + vector_at, {vector}, p.c.dtype(), p.c.device());
  if (zeros > 0) scratch.zeros = Tensor(scratch.blas + zeros_at, {zeros}, p.a.dtype(), p.a.device());
  return scratch;
}

MatmulShape shape_of(const Product& p) {
  const bool ta = p.ta == Transpose::kYes;
  return {p.c.rows(),
          p.c.cols(),
          ta ? p.a.rows() : p.a.cols(),
          ta,
          p.tb == Transpose::kYes,
          p.bias.defined(),
          p.accumulate == Accumulate::kYes,
          p.a.dtype(),
          p.c.dtype()};
}

}  // namespace

std::string Product::str() const { return problem_of(*this).str(); }

bool run_product(Stream& stream, const Product& p) {
  SFFN_CHECK(p.c.numel() > 0, "a product without elements");
  Plans& plans = plans_of(stream);
  const Plan& plan = plan_for(plans, problem_of(p));
  if (!plan.found) return false;

  const Scratch scratch = scratch_for(stream, p, plan);
  const void *a = p.a.raw(), *b = p.b.raw(), *vector = p.bias.raw();
  if (scratch.zeros.defined()) {
    cuda::fill_zero(stream, scratch.zeros);
    a = b = scratch.zeros.raw();
  }
  if (scratch.vector.defined()) {
    if (!p.dbias.defined()) cuda::copy(stream, scratch.vector, p.bias);
    vector = scratch.vector.raw();
  }
  if (vector != nullptr) set(plan.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
  if (p.aux.defined()) {
    const void* aux = p.aux.raw();
    set(plan.description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux);
  }
  const float alpha = 1, beta = p.accumulate == Accumulate::kYes ? 1 : 0;
  {
    const Timed timed(stream, shape_of(p));
    check_blas(cublasLtMatmul(plans.library.get(), plan.description.get(), &alpha, b, plan.left.get(), a,
                              plan.right.get(), &beta, p.c.raw(), plan.result.get(), p.c.raw(), plan.result.get(),
                              &plan.algorithm, scratch.blas, plan.workspace, native(stream).stream),
               "cublasLtMatmul");
  }
  // The epilogue overwrites: beta is for c alone.
  if (p.dbias.defined()) cuda::add(stream, p.dbias, scratch.vector);
  return true;
}

std::vector<std::string> describe_products(Stream& stream) {
  std::vector<std::string> lines;
  for (const auto& [problem, plan] : plans_of(stream).by_problem) {
    lines.push_back(problem.str() + (plan.found ? "" : ": in parts"));
  }
  return lines;
}

}  // namespace sffn::cuda
