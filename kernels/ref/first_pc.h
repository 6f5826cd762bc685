// v·σ₁/√G for an uncentred block A [G,D] with first singular value σ₁ and right singular vector v. In double.
#pragma once
#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace sffn::ref {

inline double dot(const double* a, const double* b, int64_t n) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma omp simd
    for (int l = 0; l < 8; ++l) lanes[l] += a[i + l] * b[i + l];
  }
  for (int l = 0; i + l < n; ++l) lanes[l] += a[i + l] * b[i + l];
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// Eigenvector of the largest eigenvalue of the symmetric H [m,m], which is destroyed: cyclic Jacobi (Golub & Van Loan,
// Matrix Computations, 4th ed., section 8.5).
inline std::vector<double> dominant_of_small(std::vector<double> H, int64_t m) {
  std::vector<double> V(m * m);
  for (int64_t i = 0; i < m; ++i) V[i * m + i] = 1;
  const auto rotate = [m](std::vector<double>& X, int64_t a, int64_t b, int64_t step, double c, double s) {
    for (int64_t k = 0; k < m; ++k) {
      double &x = X[a + k * step], &y = X[b + k * step];
      const double turned = c * x - s * y;
      y = s * x + c * y;
      x = turned;
    }
  };
  for (int sweep = 0; sweep < 30; ++sweep) {
    bool turned = false;
    for (int64_t p = 0; p < m; ++p) {
      for (int64_t q = p + 1; q < m; ++q) {
        if (std::abs(H[p * m + q]) <= 1e-16 * std::sqrt(std::abs(H[p * m + p] * H[q * m + q]))) continue;
        turned = true;
        const double tau = (H[q * m + q] - H[p * m + p]) / (2 * H[p * m + q]);
        const double t = std::copysign(1.0, tau) / (std::abs(tau) + std::hypot(1.0, tau));
        const double c = 1 / std::hypot(1.0, t), s = t * c;
        rotate(H, p, q, m, c, s);
        rotate(H, p * m, q * m, 1, c, s);
        rotate(V, p, q, m, c, s);
      }
    }
    if (!turned) break;
  }
  int64_t best = 0;
  for (int64_t i = 1; i < m; ++i) {
    if (H[i * m + i] > H[best * m + best]) best = i;
  }
  std::vector<double> vector(m);
  for (int64_t i = 0; i < m; ++i) vector[i] = V[i * m + best];
  return vector;
}

// Unit eigenvector of the largest eigenvalue of the positive semidefinite K [n,n]: Lanczos with full
// reorthogonalisation, restarted from the Ritz vector of kBasis steps (Golub & Van Loan, section 10.1) until the
// residual is 1e-12 of the eigenvalue. Zeros when K is 0.
inline std::vector<double> dominant_eigenvector(const std::vector<double>& K, int64_t n) {
  constexpr int64_t kBasis = 24, kRestarts = 200;
  const int64_t most = std::min(n, kBasis);
  std::vector<double> u(n), Q(most * n), KQ(most * n);
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += K[i * n + i];
  if (!(trace > 0) || !std::isfinite(trace)) return std::vector<double>(n, trace == 0 ? 0 : std::nan(""));
  for (int64_t i = 0; i < n; ++i) u[i] = random_normal(RandomKey{}, i);  // any start that favours no direction
  for (int64_t restart = 0; restart < kRestarts; ++restart) {
    int64_t m = 0;
    std::vector<double> next = u;
    while (m < most) {
      const double before = std::sqrt(dot(next.data(), next.data(), n));
      for (int pass = 0; pass < 2; ++pass) {
        for (int64_t k = 0; k < m; ++k) {
          const double along = dot(&Q[k * n], next.data(), n);
          for (int64_t i = 0; i < n; ++i) next[i] -= along * Q[k * n + i];
        }
      }
      const double norm = std::sqrt(dot(next.data(), next.data(), n));
      if (!(norm > 1e-13 * before)) break;  // the basis is invariant
      for (int64_t i = 0; i < n; ++i) Q[m * n + i] = next[i] / norm;
      for (int64_t i = 0; i < n; ++i) next[i] = KQ[m * n + i] = dot(&K[i * n], &Q[m * n], n);
      ++m;
    }
    std::vector<double> H(m * m);
    for (int64_t a = 0; a < m; ++a) {
      for (int64_t b = 0; b <= a; ++b) H[a * m + b] = H[b * m + a] = dot(&Q[a * n], &KQ[b * n], n);
    }
    const std::vector<double> ritz = dominant_of_small(std::move(H), m);
    std::vector<double> Ku(n);
    std::fill(u.begin(), u.end(), 0.0);
    for (int64_t k = 0; k < m; ++k) {
      for (int64_t i = 0; i < n; ++i) u[i] += ritz[k] * Q[k * n + i], Ku[i] += ritz[k] * KQ[k * n + i];
    }
    const double eigenvalue = dot(u.data(), Ku.data(), n);
    double residual = 0;
    for (int64_t i = 0; i < n; ++i) residual += (Ku[i] - eigenvalue * u[i]) * (Ku[i] - eigenvalue * u[i]);
    if (residual <= 1e-24 * eigenvalue * eigenvalue) break;
  }
  return u;
}

// out [D] from A [G,D]: A·Aᵀ u = σ₁² u gives out = Aᵀu/√G when G <= D, Aᵀ·A v = σ₁² v gives out = v·‖A v‖/√G otherwise.
// The sign makes ⟨out, mean⟩ >= 0; where that is 0, the first of the largest |out[d]| is positive.
inline void first_pc(double* out, const double* A, int64_t G, int64_t D) {
  const bool by_rows = G <= D;
  const int64_t n = by_rows ? G : D;
  std::vector<double> columns;  // Aᵀ, so that the products below run along memory
  if (!by_rows) {
    columns.resize(G * D);
    for (int64_t j = 0; j < G; ++j) {
      for (int64_t d = 0; d < D; ++d) columns[d * G + j] = A[j * D + d];
    }
  }
  const double* rows = by_rows ? A : columns.data();
  const int64_t length = by_rows ? D : G;
  std::vector<double> K(n * n);
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b <= a; ++b) K[a * n + b] = K[b * n + a] = dot(rows + a * length, rows + b * length, length);
  }
  const std::vector<double> u = dominant_eigenvector(K, n);
  const double root = std::sqrt(static_cast<double>(G));
  std::vector<double> combined(length);  // Σ_a u_a rows_a: σ₁ v by rows, A v by columns
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t i = 0; i < length; ++i) combined[i] += u[a] * rows[a * length + i];
  }
  const double sigma = std::sqrt(dot(combined.data(), combined.data(), length));
  for (int64_t d = 0; d < D; ++d) out[d] = (by_rows ? combined[d] : u[d] * sigma) / root;

  double with_mean = 0;
  for (int64_t j = 0; j < G; ++j) with_mean += dot(out, A + j * D, D);
  int64_t largest = 0;
  for (int64_t d = 1; d < D; ++d) {
    if (std::abs(out[d]) > std::abs(out[largest])) largest = d;
  }
  if (with_mean < 0 || (with_mean == 0 && out[largest] < 0)) {
    for (int64_t d = 0; d < D; ++d) out[d] = -out[d];
  }
}

}  // namespace sffn::ref
