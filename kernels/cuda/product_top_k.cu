// cells[n, h·k + i]: the k largest of the sums s1[h,n,i1] + s2[h,n,i2], ascending, of equal sums the lower cells.
//                                              cells [N,H·k] i32  s1 [H,N,C1], s2 [H,N,C2] f32  nans [1] f64, or absent
//
// A block of threads takes a head of a token. Half 2 is sorted; rounding keeps the order of sums that share s1[i1], so
// that a binary search counts those of i1 that reach a bound. The k-th largest sum is found bit by bit of its key, an
// order-preserving unsigned form of a float: at most 32 rounds of C1 binary searches, where all sums would be C1·C2.
// The same counts say how many cells of each i1 are taken and where they go; a warp then goes over half 2 for every i1
// that has some, until it has them. At no time are sums stored.
//
// Where a half score is NaN or infinite, sums do not keep the order of half 2, and where half 2 is longer than shared
// memory holds it is not sorted: then every sum is compared. Keys of NaN are above all others.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kMostThreads = 256;
constexpr int64_t kMostSorted = 16384;  // of half 2
constexpr unsigned kNanKey = ~0u;

struct Sizes {
  int H, C1, C2, k;
  int sorted;  // the power of two from C2 on, or 0: not sorted
  int64_t N;
};

__device__ __forceinline__ unsigned key_of(float s1, float s2) {
  const float sum = s1 + s2;
  if (sum != sum) return kNanKey;
  const unsigned bits = __float_as_uint(sum == 0.0f ? 0.0f : sum);  // one zero
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// The half scores of one head of one token.
struct Row {
  const float *s1, *s2, *descending;  // descending: half 2, or null
  int C1, C2;
};

// How many sums of s1 with half 2 have this key or a larger one.
__device__ __forceinline__ int count_of(const Row& row, float s1, unsigned key) {
  int low = 0, high = row.C2;
  if (row.descending == nullptr) {
    for (int j = 0; j < row.C2; ++j) low += key_of(s1, row.s2[j]) >= key;
    return low;
  }
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (key_of(s1, row.descending[middle]) >= key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ int count_of_all(const Row& row, unsigned key) {
  int count = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.C1; i += static_cast<int>(blockDim.x)) {
    count += count_of(row, row.s1[i], key);
  }
  return block_sum(count);
}

__device__ __forceinline__ bool is_finite(float x) { return x - x == 0.0f; }

__device__ bool all_finite(const Row& row) {
  int bad = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.C1; i += static_cast<int>(blockDim.x))
    bad |= !is_finite(row.s1[i]);
  for (int j = static_cast<int>(threadIdx.x); j < row.C2; j += static_cast<int>(blockDim.x))
    bad |= !is_finite(row.s2[j]);
  return block_reduce(bad, 0, Max()) == 0;
}

// Bitonic: `count` is a power of two.
__device__ void sort_descending(float* x, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int e = static_cast<int>(threadIdx.x); e < count / 2; e += static_cast<int>(blockDim.x)) {
        const int i = 2 * e - (e & (stride - 1)), j = i + stride;
        const float a = x[i], b = x[j];
        if ((a < b) == ((i & size) == 0)) x[i] = b, x[j] = a;
      }
      __syncthreads();
    }
  }
}

// Σ of the values of the threads before this one; total: of all.
__device__ int scan_threads(int value, int& total) {
  __shared__ int of_warp[32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int sum = value;
  for (int delta = 1; delta < 32; delta *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, delta);
    if (lane >= delta) sum += other;
  }
  if (lane == 31) of_warp[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) {
    before += w < warp ? of_warp[w] : 0;
    total += of_warp[w];
  }
  __syncthreads();
  return before + sum - value;
}

// What is taken of one i1: all sums above the k-th largest, and the first `equal` of those equal to it.
struct Taken {
  int place, count, equal;
};

// The warp writes the cells of i1.
__device__ void write_cells(int32_t* cells, const Row& row, int i1, unsigned key, const Taken& taken) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned before = (1u << lane) - 1;
  int written = 0, equals = 0;
  for (int first = 0; written < taken.count; first += 32) {
    const int j = first + lane;
    const unsigned mine = j < row.C2 ? key_of(row.s1[i1], row.s2[j]) : 0;
    const unsigned equal = __ballot_sync(0xffffffffu, j < row.C2 && mine == key);
    const bool among = mine == key && equals + __popc(equal & before) < taken.equal;
    const bool chosen = j < row.C2 && (mine > key || among);
    const unsigned all = __ballot_sync(0xffffffffu, chosen);
    if (chosen) cells[taken.place + written + __popc(all & before)] = i1 * row.C2 + j;
    written += __popc(all);
    equals += __popc(equal);
  }
}

// `quota` of the sums with this key, and all above it
__device__ void write_all(int32_t* cells, const Row& row, unsigned key, int quota) {
  __shared__ Taken of_thread[kMostThreads];
  const int me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  int place = 0;
  for (int first = 0; first < row.C1; first += threads) {
    const int i1 = first + me;
    const int above = i1 < row.C1 && key != kNanKey ? count_of(row, row.s1[i1], key + 1) : 0;
    const int equal = i1 < row.C1 ? count_of(row, row.s1[i1], key) - above : 0;
    int equals = 0, all = 0;
    const int left = quota - scan_threads(equal, equals);
    const int take = left < 0 ? 0 : left < equal ? left : equal;
    of_thread[me] = {place + scan_threads(above + take, all), above + take, take};
    __syncthreads();
    for (int r = me / 32; r < threads; r += threads / 32) write_cells(cells, row, first + r, key, of_thread[r]);
    __syncthreads();
    quota -= equals, place += all;
  }
}

__global__ void product_top_k_kernel(int32_t* cells, unsigned long long* nans, const float* s1, const float* s2,
                                     Sizes s) {
  float* sorted = dynamic_shared<float>();
  const int64_t n = blockIdx.x / s.H, half = blockIdx.x % s.H * s.N + n;
  Row row{s1 + half * s.C1, s2 + half * s.C2, nullptr, s.C1, s.C2};
  const bool finite = all_finite(row);
  if (finite && s.sorted > 0) {
    for (int j = static_cast<int>(threadIdx.x); j < s.sorted; j += static_cast<int>(blockDim.x)) {
      sorted[j] = j < s.C2 ? row.s2[j] : -INFINITY;
    }
    __syncthreads();
    sort_descending(sorted, s.sorted);
    row.descending = sorted;
  }
  unsigned key = 0;  // that at least k sums reach, and more than k only where the k-th equals the next
  for (unsigned bit = 1u << 31; bit != 0; bit /= 2) {
    const int count = count_of_all(row, key | bit);
    if (count >= s.k) key |= bit;
    if (count == s.k) break;  // these are the k, whatever the lower bits of the last of them
  }
  const int above = key == kNanKey ? 0 : count_of_all(row, key + 1);
  write_all(cells + int64_t{blockIdx.x} * s.k, row, key, s.k - above);
  if (finite || nans == nullptr) return;
  const int found = count_of_all(row, kNanKey);
  if (threadIdx.x == 0) atomicAdd(nans, static_cast<unsigned long long>(found));
}

__global__ void add_nans_kernel(double* nans, const unsigned long long* found) {
  nans[0] += static_cast<double>(found[0]);
}

}  // namespace

void product_top_k(Stream& stream, Tensor cells, Tensor nans, const Tensor& s1, const Tensor& s2) {
  const int64_t H = s1.shape()[0], N = s1.shape()[1], C1 = s1.cols(), C2 = s2.cols();
  int64_t threads = 32, sorted = 1;
  while (threads < kMostThreads && threads < std::max(C1, C2)) threads *= 2;
  while (sorted < C2) sorted *= 2;
  if (sorted > kMostSorted) sorted = 0;
  unsigned long long* found = nullptr;
  if (nans.defined()) {
    found = workspace<unsigned long long>(stream, 1);
    clear_bytes(stream, found, sizeof *found);
  }
  const Sizes s{static_cast<int>(H),      static_cast<int>(C1),
                static_cast<int>(C2),     static_cast<int>(cells.cols() / H),
                static_cast<int>(sorted), N};
  launch(stream, product_top_k_kernel,
         {static_cast<unsigned>(N * H), static_cast<unsigned>(threads), static_cast<size_t>(sorted) * sizeof(float)},
         Work{bytes_of(cells, s1, s2)}, cells.data<int32_t>(), found, s1.data<float>(), s2.data<float>(), s);
  if (found != nullptr)
    launch(stream, add_nans_kernel, {1, 1}, Work{bytes_of(nans, nans) + sizeof *found}, nans.data<double>(), found);
}

}  // namespace sffn::cuda
