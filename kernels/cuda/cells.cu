// gather_cells:   out[n·b + i, j] = cells[n, m] + bias[m], m = blocks[n,i]·G + j          out [P,G]  cells [N,M]
// permute_rows:   out[p] = rows[order[p]]                                                    both [P,G]
// Rows of G elements: a power of two of lanes each, 16 bytes a lane where G and the addresses allow.
// scatter_cells:  cells = 0, then cells[n, blocks[n,i]·G + j] += weights[n,i]·h[n·b + i, j]  cells [N,M]  h [P,G]
// A block of threads owns 8192 cells of one token. It notes the earliest choice of each of their blocks, and whether
// there are others; then a thread takes the terms of its cells straight from h, in the order of choices, and writes the
// cells once, zeros where there is no choice. A choice of -1 gives zeros, or nothing.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kSlice = 8192;

struct Sizes {
  int64_t N, M, b, G;
  int64_t P() const { return N * b; }
};

template <int kCount, class To, class From>
__global__ void gather_kernel(To* out, const From* cells, const float* bias, const int32_t* blocks, Sizes s) {
  const int64_t c = row_of_thread();
  if (c >= s.N * s.b) return;
  const int64_t block = blocks[c], from = c / s.b * s.M + block * s.G;
  for (int64_t j = threadIdx.x * kCount; j < s.G; j += blockDim.x * kCount) {
    float x[kCount] = {};
    if (block >= 0) load_floats(x, cells + from + j);
    if (block >= 0 && bias != nullptr) {
      float offset[kCount];
      load_floats(offset, bias + block * s.G + j);
      for (int e = 0; e < kCount; ++e) x[e] += offset[e];
    }
    store_floats(out + c * s.G + j, x);
  }
}

template <int kCount, class T>
__global__ void permute_kernel(T* out, const T* rows, const int32_t* order, int64_t P, int64_t G) {
  const int64_t p = row_of_thread();
  if (p >= P) return;
  const int64_t from = order[p];
  for (int64_t j = threadIdx.x * kCount; j < G; j += blockDim.x * kCount) {
    float x[kCount] = {};
    if (from >= 0) load_floats(x, rows + from * G + j);
    store_floats(out + p * G + j, x);
  }
}

// noted[block - first_block]: 2·(b - i) for the earliest choice i of the block, 0 for none, and 1 more if others
// follow.
__device__ __forceinline__ void note_choices(int* noted, const int32_t* blocks, int b, int first_block, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < b; i += kThreads) {
    const int at = blocks[i] - first_block;
    if (blocks[i] < 0 || at < 0 || at >= count) continue;
    // Whoever raises the number last has found one before, or is found by all others: the mark stays.
    if (atomicMax(&noted[at], 2 * (b - i)) != 0) atomicOr(&noted[at], 1);
  }
}

// The next choice of the block after i, or b.
__device__ __forceinline__ int next_choice(const int32_t* chosen, int block, int i, int b) {
  do {
    ++i;
  } while (i < b && chosen[i] != block);
  return i;
}

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(T* cells, const T* h, const float* weights, const int32_t* blocks, Sizes s, unsigned slices) {
  int* noted = dynamic_shared<int>();
  const int M = static_cast<int>(s.M), G = static_cast<int>(s.G), b = static_cast<int>(s.b);
  const int64_t n = blockIdx.x / slices;
  const int first = static_cast<int>(blockIdx.x % slices) * kSlice, last = M - first < kSlice ? M : first + kSlice;
  const int first_block = first / G, count = (last - 1) / G - first_block + 1;
  const int32_t* chosen = blocks + n * b;
  for (int e = static_cast<int>(threadIdx.x); e < count; e += kThreads) noted[e] = 0;
  __syncthreads();
  note_choices(noted, chosen, b, first_block, count);
  __syncthreads();
  for (int m = first + static_cast<int>(threadIdx.x) * kCount; m < last; m += kThreads * kCount) {
    const int block = m / G, note = noted[block - first_block];
    float x[kCount] = {};
    for (int i = b - note / 2; i < b;) {
      const int64_t c = n * b + i;
      const float weight = weights != nullptr ? weights[c] : 1.0f;
      float term[kCount];
      load_floats(term, h + c * G + (m - block * G));
      SFFN_UNROLL for (int e = 0; e < kCount; ++e) x[e] += weight * term[e];
      i = note % 2 != 0 ? next_choice(chosen, block, i, b) : b;
    }
    store_floats(cells + n * s.M + m, x);
  }
}

template <class To, class From>
void gather(Stream& stream, To* out, const From* cells, const float* bias, const int32_t* blocks, const Sizes& s) {
  constexpr int kCount = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const Work work{bytes_for<To>(s.P() * s.G) + bytes_for<From>(s.P() * s.G) + bytes_for<int32_t>(s.P()) +
                  (bias != nullptr ? bytes_for<float>(s.M) : 0)};
  const auto run = [&](auto kernel, int count) {
    launch(stream, kernel, shape_of_rows(s.P(), s.G / count), work, out, cells, bias, blocks, s);
  };
  packs_fit(s.G, kCount, out, cells, bias) ? run(gather_kernel<kCount, To, From>, kCount)
                                           : run(gather_kernel<1, To, From>, 1);
}

}  // namespace

void gather_cells(Stream& stream, Tensor out, const Tensor& cells, const Tensor& bias, const Tensor& blocks) {
  const Sizes s{.N = cells.rows(), .M = cells.cols(), .b = blocks.cols(), .G = out.cols()};
  with_activation_type("gather_cells", out, [&]<class To>(To) {
    const auto from = [&](const auto* all) {
      gather(stream, out.data<To>(), all, bias.data_or_null<float>(), blocks.data<int32_t>(), s);
    };
    cells.dtype() == DType::kF32 ? from(cells.data<float>()) : from(cells.data<To>());
  });
}

void scatter_cells(Stream& stream, Tensor cells, const Tensor& h, const Tensor& weights, const Tensor& blocks) {
  const Sizes s{.N = cells.rows(), .M = cells.cols(), .b = blocks.cols(), .G = h.cols()};
  const unsigned slices = blocks_for(s.M, kSlice);
  const size_t shared_bytes = (static_cast<size_t>(kSlice / s.G) + 2) * sizeof(int);  // of the blocks of a slice
  with_activation_type("scatter_cells", h, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = s.M % kCount == 0 && packs_fit(s.G, kCount, cells.data<T>(), h.data<T>());
    launch(stream, packs ? scatter_kernel<kCount, T> : scatter_kernel<1, T>,
           {static_cast<unsigned>(s.N * slices), kThreads, shared_bytes}, Work{bytes_of(cells, h, weights, blocks)},
           cells.data<T>(), h.data<T>(), weights.data_or_null<float>(), blocks.data<int32_t>(), s, slices);
  });
}

void permute_rows(Stream& stream, Tensor out, const Tensor& rows, const Tensor& order) {
  const int64_t P = rows.rows(), G = rows.cols();
  with_activation_type("permute_rows", rows, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(G, kCount, out.data<T>(), rows.data<T>());
    launch(stream, packs ? permute_kernel<kCount, T> : permute_kernel<1, T>, shape_of_rows(P, packs ? G / kCount : G),
           Work{bytes_of(out, rows, order)}, out.data<T>(), rows.data<T>(), order.data<int32_t>(), P, G);
  });
}

}  // namespace sffn::cuda
