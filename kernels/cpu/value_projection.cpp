#include "kernels/ref/value_projection.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

#include <array>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk
constexpr int64_t kStrip = 64;     // columns a chunk of drouter

struct Sizes {
  int64_t M, B, D, G;
  int64_t cells() const { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, D)); }  // of a chunk
};

template <class T>
void forward(float* v, const T* values, const float* router, const Sizes& s) {
  parallel_chunks(s.M, s.cells(), [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const T* value = values + c * s.D;
      const float* direction = router + c / s.G * s.D;
      v[c] = lane_sum<float>(s.D, [&](int64_t d) { return static_cast<float>(value[d]) * direction[d]; });
    }
  });
}

void backward_values(float* dvalues, const float* dv, const float* router, const Sizes& s) {
  parallel_chunks(s.M, s.cells(), [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const float* direction = router + c / s.G * s.D;
      const float gradient = dv[c];
      float* row = dvalues + c * s.D;
#pragma omp simd
      for (int64_t d = 0; d < s.D; ++d) row[d] += gradient * direction[d];
    }
  });
}

// One chunk: the columns of one strip of one block's row, cells in order.
template <class T>
void backward_router(float* drouter, const float* dv, const T* values, const Sizes& s) {
  const int64_t strips = (s.D + kStrip - 1) / kStrip;
  parallel_chunks(s.B * strips, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t i = chunk / strips, column = chunk % strips * kStrip, width = std::min(kStrip, s.D - column);
      std::array<float, kStrip> sum{};
      for (int64_t c = i * s.G; c < (i + 1) * s.G; ++c) {
        const T* value = values + c * s.D + column;
        const float gradient = dv[c];
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) sum[static_cast<size_t>(d)] += gradient * static_cast<float>(value[d]);
      }
      for (int64_t d = 0; d < width; ++d) drouter[i * s.D + column + d] += sum[static_cast<size_t>(d)];
    }
  });
}

}  // namespace

void value_projection_forward(Stream&, Tensor v, const Tensor& values, const Tensor& router) {
  const Sizes s{values.rows(), router.rows(), values.cols(), values.rows() / router.rows()};
  with_float_type(values.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::value_projection_forward(v.data<T>(), values.data<T>(), router.data<T>(), s.M, s.B, s.D);
    } else {
      forward(v.data<float>(), values.data<T>(), router.data<float>(), s);
    }
  });
}

void value_projection_backward(Stream&, Tensor dvalues, Tensor drouter, const Tensor& dv, const Tensor& values,
                               const Tensor& router) {
  const Sizes s{values.rows(), router.rows(), values.cols(), values.rows() / router.rows()};
  with_float_type(values.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::value_projection_backward(dvalues.data<T>(), drouter.data<T>(), dv.data<T>(), values.data<T>(),
                                     router.data<T>(), s.M, s.B, s.D);
    } else {
      backward_values(dvalues.data<float>(), dv.data<float>(), router.data<float>(), s);
      backward_router(drouter.data<float>(), dv.data<float>(), values.data<T>(), s);
    }
  });
}

}  // namespace sffn::cpu
