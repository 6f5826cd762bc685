// c = op(a)·op(b) + bias (+ c) through cuBLASLt       op(a) [M,K]  op(b) [K,N]  c [M,N] act or f32  bias [N] f32
// fp32 is computed in fp32, never TF32; bf16 products accumulate in fp32. cuBLASLt reads columns first, so a row-major
// matrix is its transpose there, and cᵀ = op(b)ᵀ·op(a)ᵀ is what it is asked for. What was prepared for a product stays
// with the stream: a model runs a few dozen, each thousands of times.
#include "kernels/cuda/profile.h"
#include "kernels/ops.h"

#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr size_t kMostWorkspace = size_t{32} << 20;
constexpr size_t kAlign = 256;  // of the parts of the workspace, and the most that cuBLASLt asks about

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw RunError("matmul", cat(what, ": ", cublasLtGetStatusString(status)));
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

// The bytes the address is a multiple of.
uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | kAlign;
  return static_cast<uint32_t>(address & -address);
}

struct Problem {
  int64_t M, N, K;
  bool ta, tb, has_bias, accumulate;
  DType input, output;
  uint32_t align_a, align_b, align_c;

  auto key() const {
    return std::tuple(M, N, K, ta, tb, has_bias, accumulate, input, output, align_a, align_b, align_c);
  }
};

struct Plan {
  Description description;
  Layout left, right, result;  // op(b)ᵀ, op(a)ᵀ, cᵀ
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace = 0;
  bool rounds_bias = false;  // the bias must have the type of c
};

// What the matmuls of a stream keep.
struct Plans {
  Library library;
  std::map<decltype(std::declval<Problem>().key()), Plan> by_problem;

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

Description describe(const Problem& p, DType bias_type) {
  cublasLtMatmulDesc_t object = nullptr;
  check_blas(cublasLtMatmulDescCreate(&object, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
  Description description(object);
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, p.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(description, CUBLASLT_MATMUL_DESC_TRANSB, p.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.has_bias) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(bias_type)));
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

// False where cuBLASLt has no algorithm for this type of bias.
bool prepare(Plan& plan, const Plans& plans, const Problem& p, DType bias_type) {
  plan.description = describe(p, bias_type);
  plan.left = p.tb ? layout_of(p.input, p.K, p.N) : layout_of(p.input, p.N, p.K);
  plan.right = p.ta ? layout_of(p.input, p.M, p.K) : layout_of(p.input, p.K, p.M);
  plan.result = layout_of(p.output, p.N, p.M);
  plan.rounds_bias = p.has_bias && bias_type != DType::kF32;
  const Preference preference = preference_for(p);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(plans.library.get(), plan.description.get(), plan.left.get(), plan.right.get(),
                                     plan.result.get(), plan.result.get(), preference.get(), 1, &best, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) return false;
  plan.algorithm = best.algo;
  plan.workspace = best.workspaceSize;
  return true;
}

Plans& plans_of(Stream& stream) {
  std::shared_ptr<void>& kept = native(stream).matmul_plans;
  if (!kept) kept = std::make_shared<Plans>();
  return *static_cast<Plans*>(kept.get());
}

// cuBLASLt takes a bias of the type of c; where it takes an fp32 one beside bf16, that is used.
const Plan& plan_for(Plans& plans, const Problem& p) {
  const auto found = plans.by_problem.find(p.key());
  if (found != plans.by_problem.end()) return found->second;
  Plan plan;
  const bool can_round = p.has_bias && p.output == DType::kBF16;
  if (!prepare(plan, plans, p, DType::kF32) && !(can_round && prepare(plan, plans, p, DType::kBF16))) {
    throw RunError("matmul", cat("cuBLASLt has no algorithm for ", p.M, "x", p.N, "x", p.K, " of ", name_of(p.input),
                                 " to ", name_of(p.output), p.has_bias ? " with a bias" : ""));
  }
  return plans.by_problem.emplace(p.key(), std::move(plan)).first->second;
}

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  const int64_t M = c.rows(), N = c.cols(), K = ta == Transpose::kYes ? a.rows() : a.cols();
  if (M == 0 || N == 0) return;
  const bool empty = K == 0;  // then a product of zeros, of depth 1
  const Problem problem{.M = M,
                        .N = N,
                        .K = empty ? 1 : K,
                        .ta = ta == Transpose::kYes,
                        .tb = tb == Transpose::kYes,
                        .has_bias = bias.defined(),
                        .accumulate = accumulate == Accumulate::kYes,
                        .input = a.dtype(),
                        .output = c.dtype(),
                        .align_a = empty ? uint32_t{kAlign} : alignment_of(a.raw()),
                        .align_b = empty ? uint32_t{kAlign} : alignment_of(b.raw()),
                        .align_c = alignment_of(c.raw())};
  Plans& plans = plans_of(stream);
  const Plan& plan = plan_for(plans, problem);

  const int64_t zeros = empty ? std::max(M, N) : 0;
  const size_t bias_at = aligned(plan.workspace), zeros_at = bias_at + aligned(plan.rounds_bias ? 2 * N : 0);
  auto* scratch =
      static_cast<std::byte*>(native(stream).workspace(zeros_at + static_cast<size_t>(zeros) * size_of(problem.input)));
  const void* bias_data = bias.raw();
  if (plan.rounds_bias) {
    const Tensor rounded(scratch + bias_at, {N}, DType::kBF16, c.device());
    cuda::copy(stream, rounded, bias);
    bias_data = rounded.raw();
  }
  if (empty) cuda::fill_zero(stream, Tensor(scratch + zeros_at, {zeros}, problem.input, c.device()));
  if (problem.has_bias) set(plan.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_data);
  const float alpha = 1, beta = problem.accumulate ? 1 : 0;
  const Timed timed(stream, MatmulShape{M, N, K, problem.ta, problem.tb, problem.has_bias, problem.accumulate,
                                        problem.input, problem.output});
  check_blas(cublasLtMatmul(plans.library.get(), plan.description.get(), &alpha, empty ? scratch + zeros_at : b.raw(),
                            plan.left.get(), empty ? scratch + zeros_at : a.raw(), plan.right.get(), &beta, c.raw(),
                            plan.result.get(), c.raw(), plan.result.get(), &plan.algorithm, scratch, plan.workspace,
                            native(stream).stream),
             "cublasLtMatmul");
}

}  // namespace sffn::cuda
