// Times of what a stream runs, by CUDA events around every launch and library call.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/cuda/work.h"

#include <string>
#include <vector>

struct CUevent_st;

namespace sffn::cuda {

class Profile {
 public:
  explicit Profile(CUstream_st* stream) : stream_(stream) {}
  ~Profile();
  Profile(const Profile&) = delete;

  // One launch or call at a time: none within another.
  void begin_kernel(const void* kernel, const Work& work);  // a __global__ function
  void begin_call(std::string name, const Work& work);
  void end() noexcept;
  // Waits for the stream. What has the same name and work shares a row; rows stand in the order in which they first
  // ran.
  std::vector<KernelTime> rows();

 private:
  struct Span {
    const void* kernel;
    std::string call;  // where there is no kernel
    Work work;
    CUevent_st *first = nullptr, *last = nullptr;
  };
  void begin(Span span);

  CUstream_st* stream_;
  std::vector<Span> spans_;
  bool open_ = false;    // between a begin and its end
  bool failed_ = false;  // an end was not recorded
};

// "adamw_kernel<true>" of the demangled "void sffn::cuda::(anonymous namespace)::adamw_kernel<true>(float*, …)".
std::string short_kernel_name(const std::string& demangled);

// "matmul NT 4096x768x3072 bf16 to f32": M, N, K; the type of c where it is another
std::string product_name(const MatmulShape& shape);
Work product_work(const MatmulShape& shape);

// What the stream is given while this lives is one row's launch, where the stream is profiled.
class Timed {
 public:
  Timed(Stream& stream, const void* kernel, const Work& work) : profile_(native(stream).profile.get()) {
    if (profile_ != nullptr) profile_->begin_kernel(kernel, work);
  }
  Timed(Stream& stream, const char* call, const Work& work) : profile_(native(stream).profile.get()) {
    if (profile_ != nullptr) profile_->begin_call(call, work);
  }
  Timed(Stream& stream, const MatmulShape& product) : profile_(native(stream).profile.get()) {
    if (profile_ != nullptr) profile_->begin_call(product_name(product), product_work(product));
  }
  ~Timed() {
    if (profile_ != nullptr) profile_->end();
  }
  Timed(const Timed&) = delete;

 private:
  Profile* profile_;
};

}  // namespace sffn::cuda
