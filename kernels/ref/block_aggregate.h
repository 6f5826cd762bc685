// out[i] = aggregate of the keys of block i, element by element; first_pc: the dominant right singular vector.
#pragma once
#include "kernels/ref/first_pc.h"
#include "kernels/ref/scalar.h"
#include "kernels/routing.h"

#include <cstdint>
#include <vector>

namespace sffn::ref {

// Whether x takes the place of `best` as the minimum or maximum of cells seen in order: the first that attains it, the
// first NaN when there is one.
template <class T>
bool replaces(T x, T best, BlockAggregate aggregate) {
  const auto a = real(x), b = real(best);
  if (a != a) return b == b;
  return aggregate == BlockAggregate::kMin ? a < b : a > b;
}

template <class T>
T row_norm(const T* row, int64_t D) {
  T squares = T(0);
  for (int64_t d = 0; d < D; ++d) squares += square(row[d]);
  return std::sqrt(squares);
}

// out [B,D], keys [B·G,D], values [B·G,D] for value_weighted.
template <class T>
void block_aggregate_forward(T* out, const T* keys, const T* values, int64_t B, int64_t G, int64_t D,
                             BlockAggregate aggregate) {
  std::vector<double> block(G * D), component(D);
  for (int64_t i = 0; i < B; ++i) {
    const T *first = keys + i * G * D, *v = values + i * G * D;
    T* to = out + i * D;
    if (aggregate == BlockAggregate::kFirstPc) {
      for (int64_t e = 0; e < G * D; ++e) block[e] = real(first[e]);
      first_pc(component.data(), block.data(), G, D);
      for (int64_t d = 0; d < D; ++d) to[d] = constant<T>(component[d]);
      continue;
    }
    T total = T(0);
    for (int64_t j = 0; j < G && aggregate == BlockAggregate::kValueWeighted; ++j) total += row_norm(v + j * D, D);
    for (int64_t d = 0; d < D; ++d) to[d] = T(0);
    for (int64_t j = 0; j < G; ++j) {
      const T* key = first + j * D;
      const T norm = aggregate == BlockAggregate::kL2Mean ? row_norm(key, D) : T(1);
      const T unit = real(norm) == 0 ? T(0) : T(1) / norm;
      const T weight = real(total) == 0 ? constant<T>(1.0 / G) : row_norm(v + j * D, D) / total;
      for (int64_t d = 0; d < D; ++d) {
        switch (aggregate) {
          case BlockAggregate::kMean:
            to[d] += key[d] / constant<T>(G);
            break;
          case BlockAggregate::kMin:
          case BlockAggregate::kMax:
            if (j == 0 || replaces(key[d], to[d], aggregate)) to[d] = key[d];
            break;
          case BlockAggregate::kMeanAbs:
            to[d] += absolute(key[d]) / constant<T>(G);
            break;
          case BlockAggregate::kL2Mean:
            to[d] += key[d] * unit / constant<T>(G);
            break;
          case BlockAggregate::kValueWeighted:
            to[d] += weight * key[d];
            break;
          case BlockAggregate::kFirstPc:
            break;
        }
      }
    }
    const bool has_gradient = aggregate == BlockAggregate::kMean || aggregate == BlockAggregate::kL2Mean;
    for (int64_t d = 0; d < D && !has_gradient; ++d) to[d] = T(real(to[d]));
  }
}

// dkeys += gradient of mean or l2_mean; nothing for the others.
template <class T>
void block_aggregate_backward(T* dkeys, const T* dout, const T* keys, int64_t B, int64_t G, int64_t D,
                              BlockAggregate aggregate) {
  for (int64_t j = 0; j < B * G; ++j) {
    const T *dy = dout + j / G * D, *key = keys + j * D;
    T* dkey = dkeys + j * D;
    if (aggregate == BlockAggregate::kMean) {
      for (int64_t d = 0; d < D; ++d) dkey[d] += dy[d] / constant<T>(G);  // out += key / G
    } else if (aggregate == BlockAggregate::kL2Mean) {
      const T norm = row_norm(key, D);
      if (real(norm) == 0) continue;
      T along = T(0);  // ⟨k, dy⟩ / ‖k‖²
      for (int64_t d = 0; d < D; ++d) along += key[d] * dy[d] / square(norm);
      for (int64_t d = 0; d < D; ++d) dkey[d] += (dy[d] - key[d] * along) / (norm * constant<T>(G));  // out += k/‖k‖/G
    }
  }
}

}  // namespace sffn::ref
