#include "kernels/cpu/gemm.h"

#include "core/error.h"
#include "kernels/cpu/scratch.h"

#include <dnnl.hpp>

#ifdef _OPENMP
#include <omp.h>
#else
// oneDNN brings libgomp along even when this program is built without OpenMP.
extern "C" {
__attribute__((weak)) int omp_get_max_threads();
__attribute__((weak)) void omp_set_num_threads(int);
}
#endif

#include <array>
#include <cstddef>
#include <cstring>
#include <unordered_map>
#include <utility>

namespace sffn::cpu {
namespace {

// oneDNN takes one thread inside an active parallel region, but all of them in a team of one or outside.
class OneThread {
 public:
  OneThread() { set(1); }
  ~OneThread() { set(threads_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
#ifdef _OPENMP
  static int get() { return omp_get_max_threads(); }
  static void set(int threads) { omp_set_num_threads(threads); }
#else
  static int get() { return omp_get_max_threads != nullptr ? omp_get_max_threads() : 1; }
  static void set(int threads) {
    if (omp_set_num_threads != nullptr) omp_set_num_threads(threads);
  }
#endif
  int threads_ = get();
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::memory::data_type type_of(DType dtype) {
  return dtype == DType::kBF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc matrix(int64_t rows, int64_t cols, DType dtype, int64_t ld, Transpose t) {
  using Dims = dnnl::memory::dims;
  return {Dims{rows, cols}, type_of(dtype), t == Transpose::kYes ? Dims{1, ld} : Dims{ld, 1}};
}

dnnl::primitive_attr attributes(const Gemm& g) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (g.accumulate == Accumulate::kYes) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attr.set_post_ops(sum);
  }
  return attr;
}

dnnl::matmul::primitive_desc describe(const Gemm& g) {
  const auto a = matrix(g.m, g.k, g.input, g.lda, g.ta), b = matrix(g.k, g.n, g.input, g.ldb, g.tb);
  const auto c = matrix(g.m, g.n, g.output, g.ldc, Transpose::kNo);
  const auto bias = matrix(1, g.n, DType::kF32, g.n, Transpose::kNo);
  const dnnl::primitive_attr attr = attributes(g);
#if DNNL_VERSION_MAJOR >= 3
  return g.has_bias ? dnnl::matmul::primitive_desc(engine(), a, b, bias, c, attr)
                    : dnnl::matmul::primitive_desc(engine(), a, b, c, attr);
#else
  return {g.has_bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c), attr, engine()};
#endif
}

// A primitive with the memory objects its calls are made through: one thread's own.
class Kernel {
 public:
  explicit Kernel(const Gemm& g) : Kernel(describe(g), g) {}

  void run(const dnnl::stream& stream, Scratch& scratch, void* c, const void* a, const void* b, const float* bias) {
    c_.set_data_handle(c);
    a_.set_data_handle(const_cast<void*>(a));
    b_.set_data_handle(const_cast<void*>(b));
    scratchpad_.set_data_handle(scratch.get(scratch_bytes_));
    std::array<dnnl_exec_arg_t, 5> arguments = {{{DNNL_ARG_SRC, a_.get()},
                                                 {DNNL_ARG_WEIGHTS, b_.get()},
                                                 {DNNL_ARG_DST, c_.get()},
                                                 {DNNL_ARG_SCRATCHPAD, scratchpad_.get()}}};
    int count = 4;
    if (bias_) {
      bias_.set_data_handle(const_cast<float*>(bias));
      arguments[count++] = {DNNL_ARG_BIAS, bias_.get()};
    }
    dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive_.get(), stream.get(), count, arguments.data()),
                            "could not execute a matmul");
  }

 private:
  Kernel(const dnnl::matmul::primitive_desc& desc, const Gemm& g)
      : primitive_(desc),
        a_(desc.src_desc(), engine(), nullptr),
        b_(desc.weights_desc(), engine(), nullptr),
        c_(desc.dst_desc(), engine(), nullptr),
        scratchpad_(desc.scratchpad_desc(), engine(), nullptr),
        scratch_bytes_(desc.scratchpad_desc().get_size()) {
    if (g.has_bias) bias_ = dnnl::memory(desc.bias_desc(), engine(), nullptr);
  }

  dnnl::matmul primitive_;
  dnnl::memory a_, b_, c_, bias_, scratchpad_;
  size_t scratch_bytes_;
};

struct HashGemm {
  size_t operator()(const Gemm& g) const {
    const int flags = static_cast<int>(g.ta) | static_cast<int>(g.tb) << 1 | static_cast<int>(g.accumulate) << 2 |
                      static_cast<int>(g.has_bias) << 3 | static_cast<int>(g.input) << 4 |
                      static_cast<int>(g.output) << 8;
    uint64_t hash = static_cast<uint64_t>(flags);
    for (int64_t x : {g.m, g.n, g.k, g.lda, g.ldb, g.ldc})
      hash = (hash ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
  }
};

struct ThreadState {
  // Far more shapes than a model has; reached only where sizes come from data, and then all are made again.
  static constexpr size_t kMaxKernels = 1024;

  dnnl::stream stream{engine()};
  Scratch scratch;
  std::unordered_map<Gemm, Kernel, HashGemm> kernels;

  Kernel& kernel(const Gemm& g) {
    if (auto found = kernels.find(g); found != kernels.end()) return found->second;
    if (kernels.size() == kMaxKernels) kernels.clear();
    return kernels.try_emplace(g, g).first->second;
  }
};

void call_onednn(const Gemm& g, void* c, const void* a, const void* b, const float* bias) {
  thread_local ThreadState state;
  const OneThread guard;
  try {
    state.kernel(g).run(state.stream, state.scratch, c, a, b, bias);
  } catch (const dnnl::error& error) {
    throw RunError("oneDNN", cat(error.what(), " (status ", static_cast<int>(error.status), ") of ", name_of(g.input),
                                 " ", g.m, "x", g.n, "x", g.k));
  }
}

// Elements i·to_stride of `to` = elements i·from_stride of `from`.
void copy_column(void* to, int64_t to_stride, const void* from, int64_t from_stride, int64_t count, DType dtype) {
  const size_t size = size_of(dtype);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(static_cast<std::byte*>(to) + i * to_stride * size,
                static_cast<const std::byte*>(from) + i * from_stride * size, size);
  }
}

// oneDNN 3.7.2 takes a matrix stored as one column of a wider one for contiguous, reading and writing its neighbours.
bool has_column_a(const Gemm& g) { return g.m == 1 && g.ta == Transpose::kYes && g.lda > 1; }
bool has_column_b(const Gemm& g) { return g.n == 1 && g.tb == Transpose::kNo && g.ldb > 1; }
bool has_column_c(const Gemm& g) { return g.n == 1 && g.ldc > 1; }

void run_with_columns_packed(Gemm g, void* c, const void* a, const void* b, const float* bias) {
  thread_local Scratch scratch_a, scratch_b, scratch_c;
  if (has_column_a(g)) {
    void* packed = scratch_a.get(static_cast<size_t>(g.k) * size_of(g.input));
    copy_column(packed, 1, std::exchange(a, packed), std::exchange(g.lda, int64_t{1}), g.k, g.input);
  }
  if (has_column_b(g)) {
    void* packed = scratch_b.get(static_cast<size_t>(g.k) * size_of(g.input));
    copy_column(packed, 1, std::exchange(b, packed), std::exchange(g.ldb, int64_t{1}), g.k, g.input);
  }
  if (!has_column_c(g)) return call_onednn(g, c, a, b, bias);
  void* packed = scratch_c.get(static_cast<size_t>(g.m) * size_of(g.output));
  const int64_t stride = std::exchange(g.ldc, int64_t{1});
  if (g.accumulate == Accumulate::kYes) copy_column(packed, 1, c, stride, g.m, g.output);
  call_onednn(g, packed, a, b, bias);
  copy_column(c, stride, packed, 1, g.m, g.output);
}

}  // namespace

void run_gemm(const Gemm& g, void* c, const void* a, const void* b, const float* bias) {
  if (has_column_a(g) || has_column_b(g) || has_column_c(g)) return run_with_columns_packed(g, c, a, b, bias);
  call_onednn(g, c, a, b, bias);
}

bool gemm_has_native_bf16() {
  constexpr auto kBf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kBf16) == kBf16;
}

std::string gemm_library() {
  const dnnl_version_t* version = dnnl_version();
  return cat("oneDNN ", version->major, ".", version->minor, ".", version->patch);
}

}  // namespace sffn::cpu
