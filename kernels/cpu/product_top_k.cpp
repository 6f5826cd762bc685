// The k largest of C1·C2 sums without forming them all. Sums are rounded, so unequal half scores may give equal sums:
// the value of the k-th largest sum comes from the sorted half scores, the cells from every sum that reaches it.
// Lample et al., arXiv 1907.05242, section 3.1.
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/product_keys.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <vector>

namespace sffn::cpu {
namespace {

using ref::ProductKeySizes;

constexpr int64_t kGrain = 4096;  // half scores a chunk

// Memory of one thread between rows.
struct Workspace {
  std::vector<float> sorted1, sorted2, sums;
  std::vector<int32_t> rows, columns;
  Scratch all_sums;
};

// The min(k, C) largest of x, descending.
void largest(std::vector<float>& sorted, const float* x, int64_t C, int64_t k) {
  sorted.assign(x, x + C);
  if (k < C) {
    std::nth_element(sorted.begin(), sorted.begin() + k - 1, sorted.end(), std::greater<>());
    sorted.resize(static_cast<size_t>(k));
  }
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
}

struct Threshold {
  float value;    // the k-th largest sum
  int64_t equal;  // how many of the sums that equal it are among the k
};

// A sum of the a-th and b-th largest half scores, counted from 1, has a·b - 1 sums that are at least as large, so the k
// largest values are among those with a·b <= k. Rounding keeps the order of sums that share a half score.
Threshold threshold_of(Workspace& w, int64_t k) {
  w.sums.clear();
  for (size_t a = 0; a < w.sorted1.size(); ++a) {
    const size_t count = std::min(w.sorted2.size(), static_cast<size_t>(k) / (a + 1));
    for (size_t b = 0; b < count; ++b) w.sums.push_back(w.sorted1[a] + w.sorted2[b]);
  }
  std::nth_element(w.sums.begin(), w.sums.begin() + k - 1, w.sums.end(), std::greater<>());
  const float value = w.sums[static_cast<size_t>(k) - 1];
  return {.value = value,
          .equal = k - std::count_if(w.sums.begin(), w.sums.end(), [=](float sum) { return sum > value; })};
}

// Places of x whose sum with the largest of the other half reaches the threshold, ascending.
void reaching(std::vector<int32_t>& places, const float* x, int64_t C, float other, float threshold) {
  places.clear();
  for (int64_t i = 0; i < C; ++i) {
    if (x[i] + other >= threshold) places.push_back(static_cast<int32_t>(i));
  }
}

void choose(int32_t* cells, const float* s1, const float* s2, const ProductKeySizes& s, Workspace& w) {
  largest(w.sorted1, s1, s.C1, s.k);
  largest(w.sorted2, s2, s.C2, s.k);
  auto [value, equal] = threshold_of(w, s.k);
  reaching(w.rows, s1, s.C1, w.sorted2[0], value);
  reaching(w.columns, s2, s.C2, w.sorted1[0], value);
  int64_t taken = 0;
  for (const int32_t i1 : w.rows) {
    for (const int32_t i2 : w.columns) {
      const float sum = s1[i1] + s2[i2];
      if (sum < value || (sum == value && equal-- <= 0)) continue;
      cells[taken++] = i1 * static_cast<int32_t>(s.C2) + i2;
      if (taken == s.k) return;
    }
  }
}

bool all_finite(const float* x, int64_t count) {
  float bad = 0;
#pragma omp simd reduction(+ : bad)
  for (int64_t i = 0; i < count; ++i) bad += x[i] - x[i];  // NaN for infinity and NaN
  return bad == 0;
}

// Where half scores are NaN or infinite, sums do not keep their order: all are formed. Returns how many are NaN.
int64_t choose_among_all(Stream& stream, int32_t* cells, const float* s1, const float* s2, const ProductKeySizes& s,
                         Workspace& w) {
  const int64_t M = s.C1 * s.C2;
  auto* sums = static_cast<float*>(w.all_sums.get(static_cast<size_t>(M) * sizeof(float)));
  int64_t nans = 0;
  for (int64_t cell = 0; cell < M; ++cell) {
    sums[cell] = s1[cell / s.C2] + s2[cell % s.C2];
    nans += std::isnan(sums[cell]);
  }
  top_b(stream, Tensor(cells, {1, s.k}, DType::kI32, Device::cpu()), Tensor(),
        Tensor(sums, {1, M}, DType::kF32, Device::cpu()), Tensor());
  return nans;
}

int64_t top_k(Stream& stream, int32_t* cells, const float* s1, const float* s2, const ProductKeySizes& s) {
  std::atomic<int64_t> nans{0};
  const int64_t grain = std::max<int64_t>(1, kGrain / (s.H * (s.C1 + s.C2)));
  parallel_chunks(s.N, grain, [&](int64_t first, int64_t last) {
    thread_local Workspace workspace;
    for (int64_t n = first; n < last; ++n) {
      for (int64_t h = 0; h < s.H; ++h) {
        const float *row1 = s1 + (h * s.N + n) * s.C1, *row2 = s2 + (h * s.N + n) * s.C2;
        int32_t* chosen = cells + (n * s.H + h) * s.k;
        if (all_finite(row1, s.C1) && all_finite(row2, s.C2)) {
          choose(chosen, row1, row2, s, workspace);
        } else {
          nans += choose_among_all(stream, chosen, row1, row2, s, workspace);
        }
      }
    }
  });
  return nans;
}

}  // namespace

void product_top_k(Stream& stream, Tensor cells, Tensor nans, const Tensor& s1, const Tensor& s2) {
  const int64_t H = s1.shape()[0];
  const ProductKeySizes s{.H = H, .N = s1.shape()[1], .C1 = s1.cols(), .C2 = s2.cols(), .k = cells.cols() / H};
  with_accumulate_type(s1.dtype(), [&]<class T>(T) {
    int64_t found = 0;
    if constexpr (kIsReference<T>) {
      found = ref::product_top_k(cells.data<int32_t>(), s1.data<T>(), s2.data<T>(), s);
    } else {
      found = top_k(stream, cells.data<int32_t>(), s1.data<T>(), s2.data<T>(), s);
    }
    if (nans.defined()) nans.data<double>()[0] += static_cast<double>(found);
  });
}

}  // namespace sffn::cpu
