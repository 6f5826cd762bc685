// Times of the launches on a stream by CUDA events, added up by kernel, beside the bytes and FLOPs declared with them.
#include "kernels/cuda/profile.h"

#include "kernels/cuda/launch.cuh"

#include <cxxabi.h>

#include <cstdlib>
#include <map>
#include <tuple>
#include <utility>

namespace sffn::cuda {
namespace {

std::string name_of_kernel(const void* kernel) {
  const char* mangled = nullptr;
  check(cudaFuncGetName(&mangled, kernel), "cudaFuncGetName");
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  const std::string name = short_kernel_name(status == 0 ? demangled : mangled);
  std::free(demangled);
  return name;
}

// Removes every `scope`::, whose name may go on as an identifier.
void erase_scopes(std::string& name, const std::string& scope) {
  for (size_t at = name.find(scope); at != std::string::npos; at = name.find(scope, at)) {
    const size_t end = name.find("::", at);
    if (end == std::string::npos) return;
    name.erase(at, end + 2 - at);
  }
}

}  // namespace

Profile::~Profile() {
  for (const Span& span : spans_) {
    (void)cudaEventDestroy(span.first);
    if (span.last != nullptr) (void)cudaEventDestroy(span.last);
  }
}

void Profile::begin_kernel(const void* kernel, const Work& work) { begin(Span{kernel, {}, work}); }
void Profile::begin_call(std::string name, const Work& work) { begin(Span{nullptr, std::move(name), work}); }

void Profile::begin(Span span) {
  SFFN_CHECK(!open_, "a launch is timed within another");
  open_ = true;
  check(cudaEventCreate(&span.first), "cudaEventCreate");
  spans_.push_back(std::move(span));
  check(cudaEventCreate(&spans_.back().last), "cudaEventCreate");
  check(cudaEventRecord(spans_.back().first, stream_), "cudaEventRecord");
}

void Profile::end() noexcept {
  open_ = false;
  failed_ |= cudaEventRecord(spans_.back().last, stream_) != cudaSuccess;
}

std::vector<KernelTime> Profile::rows() {
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  SFFN_CHECK(!failed_, "the end of a kernel was not recorded");
  std::vector<KernelTime> rows;
  std::map<const void*, std::string> names;
  std::map<std::tuple<std::string, double, double>, size_t> row_of;
  for (const Span& span : spans_) {
    std::string name = span.call;
    if (span.kernel != nullptr) {
      std::string& known = names[span.kernel];
      if (known.empty()) known = name_of_kernel(span.kernel);
      name = known;
    }
    const auto [at, is_new] = row_of.try_emplace({name, span.work.bytes, span.work.flops}, rows.size());
    if (is_new) {
      rows.push_back(
          {.name = name, .bytes = span.work.bytes, .flops = span.work.flops, .tensor_cores = span.work.tensor_cores});
    }
    float ms = 0;
    check(cudaEventElapsedTime(&ms, span.first, span.last), "cudaEventElapsedTime");
    rows[at->second].launches += 1;
    rows[at->second].seconds += 1e-3 * static_cast<double>(ms);
  }
  return rows;
}

std::string short_kernel_name(const std::string& demangled) {
  std::string name = demangled;
  for (const char* scope : {"sffn::", "cuda::", "(anonymous namespace)::", "_GLOBAL__N_", "_INTERNAL_"}) {
    erase_scopes(name, scope);
  }
  size_t end = 0;
  for (int depth = 0; end < name.size() && (depth > 0 || name[end] != '('); ++end) {
    depth += name[end] == '<' ? 1 : name[end] == '>' ? -1 : 0;
  }
  name.resize(end);
  return name.starts_with("void ") ? name.substr(5) : name;
}

std::string product_name(const MatmulShape& s) {
  return cat("matmul ", s.transpose_a ? "T" : "N", s.transpose_b ? "T" : "N", " ", s.M, "x", s.N, "x", s.K, " ",
             name_of(s.input), s.output != s.input ? cat(" to ", name_of(s.output)) : "");
}

Work product_work(const MatmulShape& s) {
  const auto bytes = [](DType dtype, int64_t rows, int64_t columns) {
    return static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(size_of(dtype));
  };
  return {.bytes = bytes(s.input, s.M, s.K) + bytes(s.input, s.K, s.N) +
                   bytes(s.output, s.M, s.N) * (s.accumulate ? 2 : 1) + (s.bias ? bytes(DType::kF32, 1, s.N) : 0),
          .flops = flops_of(s.M, s.N, s.K),
          .tensor_cores = s.input == DType::kBF16};
}

}  // namespace sffn::cuda
