// out [D] = v·σ₁/√G for an uncentred block A [G,D] with first singular value σ₁ and right singular vector v, in double;
// ⟨out, mean⟩ >= 0, and where that is 0 the first of the largest |out[d]| is positive.
// With n = min(G, D) and R the rows of A, or its columns where these are fewer: K = R·Rᵀ [n,n], tiles of 32·32 by
// blocks of threads; then a team of threads (rows.cuh) has a block of keys: u, the dominant eigenvector of K, by
// Lanczos with full reorthogonalisation, restarted from the Ritz vector until the residual is 1e-12 of the eigenvalue
// (Golub & Van Loan, Matrix Computations, 4th ed., section 10.1); out from u and R. A thread owns the same elements of
// every vector. Blocks of keys go in batches, so that their matrices stay small.
#include "kernels/cuda/first_pc.cuh"
#include "kernels/cuda/random.cuh"
#include "kernels/cuda/rows.cuh"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kBasis = 24, kRestarts = 200, kTile = 32;
constexpr int64_t kBatchBytes = 64 << 20;
constexpr int64_t kMostOfWarp = 128;  // n

struct Sizes {
  int64_t G, D;
  __host__ __device__ bool by_rows() const { return G <= D; }
  __host__ __device__ int64_t n() const { return by_rows() ? G : D; }
  __host__ __device__ int64_t length() const { return by_rows() ? D : G; }
  __host__ __device__ int64_t at(int64_t row, int64_t i) const {
    return by_rows() ? row * D + i : i * D + row;
  }  // R in A
  // numbers of one block of keys: K; Q, KQ; u, Ku, next; combined; component; H, V
  __host__ __device__ int64_t scratch() const {
    return n() * (n() + 2 * kBasis + 3) + length() + D + 2 * kBasis * kBasis;
  }
};

// K of every block of keys; tiles on and below the diagonal are mirrored.
template <class T>
__global__ void gram_kernel(double* scratch, const T* keys, Sizes s, int64_t tiles) {
  constexpr int kRowsAtOnce = 8;
  __shared__ float left[kTile][kTile + 1], right[kTile][kTile + 1];
  const int64_t block = blockIdx.x / (tiles * tiles), tile = blockIdx.x % (tiles * tiles);
  const int64_t a0 = tile / tiles * kTile, b0 = tile % tiles * kTile, n = s.n(), length = s.length();
  if (b0 > a0) return;
  const T* A = keys + block * s.G * s.D;
  const auto x = static_cast<int>(threadIdx.x);
  double sum[kTile / kRowsAtOnce] = {};
  for (int64_t first = 0; first < length; first += kTile) {
    for (auto y = static_cast<int>(threadIdx.y); y < kTile; y += kRowsAtOnce) {
      const int row = s.by_rows() ? y : x, i = s.by_rows() ? x : y;  // neighbours in memory to neighbouring lanes
      const bool inside = first + i < length;
      left[row][i] = inside && a0 + row < n ? to_float(A[s.at(a0 + row, first + i)]) : 0.0f;
      right[row][i] = inside && b0 + row < n ? to_float(A[s.at(b0 + row, first + i)]) : 0.0f;
    }
    __syncthreads();
    for (int i = 0; i < kTile; ++i) {
#pragma unroll
      for (int k = 0; k < kTile / kRowsAtOnce; ++k) {
        sum[k] += static_cast<double>(left[threadIdx.y + k * kRowsAtOnce][i]) * static_cast<double>(right[x][i]);
      }
    }
    __syncthreads();
  }
  double* K = scratch + block * s.scratch();
#pragma unroll
  for (int k = 0; k < kTile / kRowsAtOnce; ++k) {
    const int64_t a = a0 + threadIdx.y + k * kRowsAtOnce, b = b0 + x;
    if (a < n && b <= a) K[a * n + b] = K[b * n + a] = sum[k];
  }
}

// (x, y) turned by an angle, along two lines of the [m,m] matrix X that begin at p and q. Lane k has element k.
__device__ __forceinline__ void turn(double* X, int64_t p, int64_t q, int64_t step, int m, double c, double s) {
  const int k = WarpTeam::rank();
  if (k >= m) return;
  const double x = X[p + k * step], y = X[q + k * step];
  X[p + k * step] = c * x - s * y;
  X[q + k * step] = s * x + c * y;
}

// Diagonalises the symmetric H [m,m], m <= 32; the columns of V become its eigenvectors: cyclic Jacobi (Golub & Van
// Loan, section 8.5). Returns the column of the largest eigenvalue. By one warp.
__device__ int diagonalise(double* H, double* V, int m) {
  for (int e = WarpTeam::rank(); e < m * m; e += 32) V[e] = e % (m + 1) == 0 ? 1 : 0;
  __syncwarp();
  for (int sweep = 0; sweep < 30; ++sweep) {
    bool turned = false;
    for (int p = 0; p < m; ++p) {
      for (int q = p + 1; q < m; ++q) {
        const double pq = H[p * m + q], pp = H[p * m + p], qq = H[q * m + q];
        if (fabs(pq) <= 1e-16 * sqrt(fabs(pp * qq))) continue;
        turned = true;
        const double tau = (qq - pp) / (2 * pq);
        const double t = copysign(1.0, tau) / (fabs(tau) + hypot(1.0, tau));
        const double c = 1 / hypot(1.0, t), s = t * c;
        __syncwarp();  // all have read
        turn(H, p, q, m, m, c, s);
        __syncwarp();
        turn(H, int64_t{p} * m, int64_t{q} * m, 1, m, c, s);
        turn(V, p, q, m, m, c, s);
        __syncwarp();
      }
    }
    if (!turned) break;
  }
  int best = 0;
  for (int i = 1; i < m; ++i) {
    if (H[i * m + i] > H[best * m + best]) best = i;
  }
  __syncwarp();  // all have read
  return best;
}

template <class Team>
struct Eigen {
  const double* K;
  int64_t n;
  double *Q, *KQ, *u, *Ku, *next, *H, *V;

  template <class Term>
  __device__ double total(int64_t count, Term&& term) const {
    double sum = 0;
    for (int64_t i = Team::rank(); i < count; i += Team::kSize) sum += term(i);
    return team_sum<Team>(sum);
  }
  template <class Body>
  __device__ void each(Body&& body) const {
    for (int64_t i = Team::rank(); i < n; i += Team::kSize) body(i);
  }

  // Orthonormal rows of Q that span the Krylov space of u, and KQ; how many.
  __device__ int build_basis() const {
    const int most = n < kBasis ? static_cast<int>(n) : kBasis;
    each([&](int64_t i) { next[i] = u[i]; });
    for (int m = 0; m < most; ++m) {
      const double before = sqrt(total(n, [&](int64_t i) { return next[i] * next[i]; }));
      for (int k = 0; k < 2 * m; ++k) {  // twice, against rounding
        const double* q = Q + k % m * n;
        const double along = total(n, [&](int64_t i) { return q[i] * next[i]; });
        each([&](int64_t i) { next[i] -= along * q[i]; });
      }
      const double norm = sqrt(total(n, [&](int64_t i) { return next[i] * next[i]; }));
      if (!(norm > 1e-13 * before)) return m;  // the basis is invariant
      double* q = Q + m * n;
      each([&](int64_t i) { q[i] = next[i] / norm; });
      Team::sync();
      each([&](int64_t i) {
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += K[j * n + i] * q[j];
        KQ[m * n + i] = next[i] = sum;
      });
    }
    return most;
  }

  // u, Ku = the Ritz vector of the basis of m rows, and K times it.
  __device__ void take_ritz_vector(int m) const {
    for (int a = 0; a < m; ++a) {
      for (int b = 0; b <= a; ++b) {
        const double product = total(n, [&](int64_t i) { return Q[a * n + i] * KQ[b * n + i]; });
        if (Team::rank() == 0) H[a * m + b] = H[b * m + a] = product;
      }
    }
    Team::sync();
    if (Team::rank() < 32) {
      const int best = diagonalise(H, V, m);
      if (Team::rank() == 0) H[0] = best;
    }
    Team::sync();
    const auto best = static_cast<int>(H[0]);
    each([&](int64_t i) {
      double x = 0, Kx = 0;
      for (int k = 0; k < m; ++k) x += V[k * m + best] * Q[k * n + i], Kx += V[k * m + best] * KQ[k * n + i];
      u[i] = x, Ku[i] = Kx;
    });
    Team::sync();  // H and V are written again
  }

  // u = the unit eigenvector of the largest eigenvalue of K, zeros when K is 0.
  __device__ void find() const {
    const double trace = total(n, [&](int64_t i) { return K[i * n + i]; });
    if (!(trace > 0 && trace <= 0x1.fffffffffffffp1023)) {
      each([&](int64_t i) { u[i] = trace == 0 ? 0 : trace - trace; });  // else NaN
      return;
    }
    each([&](int64_t i) { u[i] = normal_at(RandomKey{}, static_cast<uint64_t>(i)); });  // favours no direction
    for (int restart = 0; restart < kRestarts; ++restart) {
      take_ritz_vector(build_basis());
      const double eigenvalue = total(n, [&](int64_t i) { return u[i] * Ku[i]; });
      const double residual = total(n, [&](int64_t i) {
        const double off = Ku[i] - eigenvalue * u[i];
        return off * off;
      });
      if (residual <= 1e-24 * eigenvalue * eigenvalue) return;
    }
  }
};

// The first of the elements with the largest absolute value.
template <class Team>
__device__ double largest_element(const double* x, int64_t count) {
  double most = 0;
  for (int64_t d = Team::rank(); d < count; d += Team::kSize) most = fmax(most, fabs(x[d]));
  most = Team::reduce(most, 0.0, Max());
  int64_t before = -count;  // of the first of them: -d
  for (int64_t d = Team::rank(); d < count && before == -count; d += Team::kSize) {
    if (fabs(x[d]) == most) before = -d;
  }
  before = Team::reduce(before, -count, Max());
  Team::sync();  // x[-before] is another thread's
  return before == -count ? 0 : x[-before];
}

template <class T, class Team>
__global__ void component_kernel(float* out, const T* keys, double* scratch, Sizes s, int64_t blocks) {
  const int64_t block = Team::row(), n = s.n(), D = s.D;
  if (block >= blocks) return;
  double *K = scratch + block * s.scratch(), *Q = K + n * n, *KQ = Q + kBasis * n, *u = KQ + kBasis * n;
  double *combined = u + 3 * n, *component = combined + s.length(), *H = component + D;
  const Eigen<Team> eigen{K, n, Q, KQ, u, u + n, u + 2 * n, H, H + kBasis * kBasis};
  eigen.find();
  Team::sync();
  const T* A = keys + block * s.G * D;
  const double squares = eigen.total(s.length(), [&](int64_t i) {  // of Σ_a u_a R_a: σ₁ v by rows, A v by columns
    double sum = 0;
    for (int64_t a = 0; a < n; ++a) sum += u[a] * static_cast<double>(to_float(A[s.at(a, i)]));
    combined[i] = sum;
    return sum * sum;
  });
  const double root = sqrt(static_cast<double>(s.G)), sigma = sqrt(squares);
  const double with_mean = eigen.total(D, [&](int64_t d) {
    component[d] = (s.by_rows() ? combined[d] : u[d] * sigma) / root;
    double sum = 0;
    for (int64_t j = 0; j < s.G; ++j) sum += component[d] * static_cast<double>(to_float(A[j * D + d]));
    return sum;
  });
  const bool negative = with_mean < 0 || (with_mean == 0 && largest_element<Team>(component, D) < 0);
  for (int64_t d = Team::rank(); d < D; d += Team::kSize) {
    out[block * D + d] = static_cast<float>(negative ? -component[d] : component[d]);
  }
}

template <class T>
void find_components(Stream& stream, float* out, const T* keys, int64_t B, int64_t G, int64_t D) {
  const Sizes s{G, D};
  const int64_t batch = std::clamp<int64_t>(kBatchBytes / (s.scratch() * int64_t{sizeof(double)}), 1, B);
  const int64_t tiles = (s.n() + kTile - 1) / kTile;
  auto* scratch = workspace<double>(stream, batch * s.scratch());
  const bool warps = s.n() <= kMostOfWarp;
  for (int64_t first = 0; first < B; first += batch) {
    const int64_t blocks = std::min(batch, B - first);
    const T* from = keys + first * G * D;
    const double of_keys = bytes_for<T>(blocks * G * D), of_gram = bytes_for<double>(blocks * s.n() * s.n());
    const Work gram{of_keys + of_gram, flops_of(blocks, s.n() * (s.n() + 1) / 2, s.length())};
    // One restart: kBasis products with K. How many there are depends on the keys.
    const Work component{of_keys + of_gram + bytes_for<float>(blocks * D), flops_of(blocks, kBasis, s.n() * s.n())};
    launch(stream, gram_kernel<T>, {blocks_for(blocks * tiles * tiles, 1), dim3(kTile, 8)}, gram, scratch, from, s,
           tiles);
    launch(stream, warps ? component_kernel<T, WarpTeam> : component_kernel<T, BlockTeam>,
           {blocks_for(blocks, warps ? WarpTeam::kRowsPerBlock : 1), kRowThreads}, component, out + first * D, from,
           scratch, s, blocks);
  }
}

}  // namespace

void first_components(Stream& stream, float* out, const float* keys, int64_t B, int64_t G, int64_t D) {
  find_components(stream, out, keys, B, G, D);
}
void first_components(Stream& stream, float* out, const bfloat16* keys, int64_t B, int64_t G, int64_t D) {
  find_components(stream, out, keys, B, G, D);
}

}  // namespace sffn::cuda
