// Forced into tests/ops where they judge the CUDA backend. An op runs on the device, on copies of its tensors in memory
// of exactly their size, and what it was allowed to write comes back; what it was not is compared. f64 and c128
// activations, the reference, run on the CPU as ever.
#pragma once
#include "core/buffer.h"
#include "core/error.h"
#include "core/stream.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stream.h"
#include "kernels/routing.h"
#include "kernels/types.h"
#include "support/device_cut.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define SFFN_RUN_OP(name) \
  ::sffn::test::run_on_device(#name, stream, &cpu::name, &cuda::name, std::forward<Args>(args)...);

namespace sffn::test {

class DeviceCopies {
 public:
  DeviceCopies() : stream_(cuda_runtime()) {
    cuda::CudaStream& native = cuda::native(stream_);
    if (device_cut().cached_bytes > 0) native.cached_bytes = device_cut().cached_bytes;
    native.warpgroups = native.warpgroups && device_cut().warpgroups;
    if (device_cut().product_bytes > 0) native.product_bytes = device_cut().product_bytes;
  }

  Stream& stream() { return stream_; }
  void note(const Tensor& t, bool writable) {
    if (t.defined() && t.bytes() > 0) spans_.push_back({static_cast<std::byte*>(t.raw()), t.bytes(), writable, {}});
  }
  // Tensors that share memory share their copy.
  void upload() {
    std::sort(spans_.begin(), spans_.end(), [](const Span& a, const Span& b) { return a.host < b.host; });
    std::vector<Span> merged;
    for (Span& span : spans_) {
      if (!merged.empty() && span.host < merged.back().host + merged.back().bytes) {
        Span& last = merged.back();
        last.bytes = std::max(last.bytes, static_cast<size_t>(span.host - last.host) + span.bytes);
        last.writable |= span.writable;
      } else {
        merged.push_back(std::move(span));
      }
    }
    spans_ = std::move(merged);
    for (Span& span : spans_) {
      span.buffer = Buffer(cuda_runtime(), span.bytes + span.skew());
      cuda_runtime().copy_to_device(stream_.native(), span.device(), span.host, span.bytes);
    }
  }
  Tensor on_device(const Tensor& t) const {
    if (!t.defined()) return t;
    auto* host = static_cast<std::byte*>(t.raw());
    for (const Span& span : spans_) {
      if (host < span.host || host >= span.host + span.bytes) continue;
      return Tensor(span.device() + (host - span.host), t.shape(), t.dtype(), cuda_runtime().device());
    }
    return Tensor(nullptr, t.shape(), t.dtype(), cuda_runtime().device());
  }
  void download(std::string_view op) {
    std::vector<std::byte> bytes;
    for (Span& span : spans_) {
      bytes.resize(span.bytes);
      cuda_runtime().copy_to_host(stream_.native(), bytes.data(), span.device(), span.bytes);
      stream_.synchronize();
      SFFN_CHECK(span.writable || std::memcmp(bytes.data(), span.host, span.bytes) == 0, op, " wrote to an input");
      if (span.writable) std::memcpy(span.host, bytes.data(), span.bytes);
    }
  }

 private:
  struct Span {
    std::byte* host;
    size_t bytes;
    bool writable;
    Buffer buffer;

    // A part of a tensor is no better aligned on the device.
    size_t skew() const { return reinterpret_cast<uintptr_t>(host) % 16; }
    std::byte* device() const { return static_cast<std::byte*>(buffer.data()) + skew(); }
  };
  Stream stream_;
  std::vector<Span> spans_;
};

inline Tensor clock_of(const Draws& draws) {
  return Tensor(const_cast<PassClock*>(draws.clock), {sizeof(PassClock) / sizeof(int32_t)}, DType::kI32, Device::cpu());
}

// P is a parameter of the op: a Tensor is written, a const Tensor& read, the tensors of a routing either.
template <class P, class F>
void each_tensor(const std::remove_reference_t<P>& argument, F&& f) {
  using Plain = std::remove_cvref_t<P>;
  if constexpr (std::is_same_v<Plain, Tensor>) {
    f(argument, !std::is_reference_v<P>);
  } else if constexpr (std::is_same_v<Plain, BlockRouting>) {
    f(argument.order, true), f(argument.inverse, true), f(argument.offsets, true);
  } else if constexpr (std::is_same_v<Plain, Dropout>) {
    each_tensor<const Draws&>(argument.draws, f);
  } else if constexpr (std::is_same_v<Plain, Draws>) {
    if (argument.clock != nullptr) f(clock_of(argument), false);
  }
}

template <class P>
std::remove_cvref_t<P> to_device(const DeviceCopies& copies, const std::remove_reference_t<P>& argument) {
  using Plain = std::remove_cvref_t<P>;
  if constexpr (std::is_same_v<Plain, Tensor>) {
    return copies.on_device(argument);
  } else if constexpr (std::is_same_v<Plain, BlockRouting>) {
    BlockRouting routing = argument;
    for (Tensor* t : {&routing.order, &routing.inverse, &routing.offsets}) *t = copies.on_device(*t);
    return routing;
  } else if constexpr (std::is_same_v<Plain, Dropout>) {
    return Dropout{argument.probability, to_device<const Draws&>(copies, argument.draws)};
  } else if constexpr (std::is_same_v<Plain, Draws>) {
    Draws draws = argument;
    if (draws.clock != nullptr) draws.clock = static_cast<const PassClock*>(copies.on_device(clock_of(argument)).raw());
    return draws;
  } else {
    return argument;
  }
}

// Of what the op's tensors are: f64 beside f32 or bf16 is a counter or a sum; alone it is the reference, but where
// every floating tensor of the op is a counter.
class Kinds {
 public:
  void add(const Tensor& t, bool writable) {
    if (!t.defined()) return;
    reference_ |= t.dtype() == DType::kC128;
    double_ |= t.dtype() == DType::kF64;
    double_read_ |= t.dtype() == DType::kF64 && !writable;
    single_ |= t.dtype() == DType::kF32 || t.dtype() == DType::kBF16;
    float_ |= t.dtype() == DType::kF32;
  }
  bool belong_on_device(std::string_view op) const {
    if (reference_) return false;
    if (op == "adamw") return float_;  // beside bf16 and the numbers of the update, which are f64
    if (op == "copy") return !double_read_ && (single_ || !double_);  // the CPU has all conversions
    for (const std::string_view counts :
         {"accumulate_counts", "limit_capacity", "tree_sum", "update_numbers", "start_clock", "stop_clock"}) {
      if (op == counts) return true;
    }
    return single_ || !double_;
  }

 private:
  bool reference_ = false, double_ = false, double_read_ = false, single_ = false, float_ = false;
};

template <class... P, class... Args>
void run_on_device(std::string_view op, Stream& stream, void (*on_cpu)(Stream&, P...), void (*on_cuda)(Stream&, P...),
                   Args&&... args) {
  const std::tuple<std::remove_cvref_t<P>...> given{std::forward<Args>(args)...};
  const auto visit = [&](auto&& f) {
    std::apply([&](const auto&... argument) { (each_tensor<P>(argument, f), ...); }, given);
  };
  Kinds kinds;
  visit([&](const Tensor& t, bool writable) { kinds.add(t, writable); });
  if (!kinds.belong_on_device(op)) {
    std::apply([&](const auto&... argument) { on_cpu(stream, argument...); }, given);
    return;
  }
  DeviceCopies copies;
  visit([&](const Tensor& t, bool writable) { copies.note(t, writable); });
  copies.upload();
  std::apply([&](const auto&... argument) { on_cuda(copies.stream(), to_device<P>(copies, argument)...); }, given);
  copies.download(op);
}

}  // namespace sffn::test
