// gather_cells:   out[n·b + i, j] = cells[n, m] + bias[m], m = blocks[n,i]·G + j          out [P,G]  cells [N,M]
// permute_rows:   out[p] = rows[order[p]]                                                    both [P,G]
// Rows of G elements: a power of two of lanes each, 16 bytes a lane where G and the addresses allow.
// scatter_cells:  cells = 0, then cells[n, blocks[n,i]·G + j] += weights[n,i]·h[n·b + i, j]  cells [N,M]  h [P,G]
// A block of threads owns 4096 cells of one token in shared memory, adds the choices that fall there, and writes them
// once. Choices come 256 at a time; those of one block of cells take turns, the earliest first, so that every cell adds
// its terms in the order of choices. A choice of -1 gives zeros, or nothing.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kSlice = 4096;

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

// sum[m - first] += weight·h for the choices that `chosen` names by their blocks, kThreads of them from choice c on.
template <class T>
__device__ void add_chosen(float* sum, const int32_t* chosen, const T* h, const float* weights, int64_t c,
                           int64_t first, int64_t last, int64_t G, int lanes) {
  for (int r = static_cast<int>(threadIdx.x) / lanes; r < kThreads; r += kThreads / lanes) {
    if (chosen[r] < 0) continue;
    const int64_t cell = chosen[r] * G, begin = cell < first ? first - cell : 0;
    const int64_t end = cell + G > last ? last - cell : G;
    const float weight = weights != nullptr ? weights[c + r] : 1.0f;
    for (int64_t j = begin + threadIdx.x % lanes; j < end; j += lanes) {
      sum[cell + j - first] += weight * to_float(h[(c + r) * G + j]);
    }
  }
}

template <int kCount, class T>
__global__ void scatter_kernel(T* cells, const T* h, const float* weights, const int32_t* blocks, Sizes s,
                               int64_t slices, int lanes) {
  alignas(16) __shared__ float sum[kSlice];
  __shared__ int earliest[kSlice];  // by block: kThreads - place of the choice whose turn it is, 0 for none
  __shared__ int32_t chosen[kThreads];
  const int me = static_cast<int>(threadIdx.x);
  const int64_t n = blockIdx.x / slices, first = blockIdx.x % slices * kSlice;
  const int64_t last = first + kSlice < s.M ? first + kSlice : s.M;
  const int64_t first_block = first / s.G, last_block = (last - 1) / s.G;
  for (int e = me; e < kSlice; e += kThreads) sum[e] = 0, earliest[e] = 0;
  __syncthreads();
  for (int64_t i = 0; i < s.b; i += kThreads) {
    const int32_t block = i + me < s.b ? blocks[n * s.b + i + me] : -1;
    bool waits = block >= first_block && block <= last_block;
    while (block_reduce(waits ? 1 : 0, 0, Max()) != 0) {
      if (waits) atomicMax(&earliest[block - first_block], kThreads - me);
      __syncthreads();
      const bool turn = waits && earliest[block - first_block] == kThreads - me;
      chosen[me] = turn ? block : -1;
      __syncthreads();
      if (turn) earliest[block - first_block] = 0, waits = false;
      add_chosen(sum, chosen, h, weights, n * s.b + i, first, last, s.G, lanes);
    }
  }
  for (int64_t e = me * kCount; e < last - first; e += kThreads * kCount) {
    float x[kCount];
    load_floats(x, sum + e);
    store_floats(cells + n * s.M + first + e, x);
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
  const int64_t slices = (s.M + kSlice - 1) / kSlice;
  int lanes = 1;
  while (lanes < kThreads && lanes < s.G) lanes *= 2;
  with_activation_type("scatter_cells", h, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const auto kernel = packs_fit(s.M, kCount, cells.data<T>()) ? scatter_kernel<kCount, T> : scatter_kernel<1, T>;
    launch(stream, kernel, {static_cast<unsigned>(s.N * slices), kThreads}, Work{bytes_of(cells, h, weights, blocks)},
           cells.data<T>(), h.data<T>(), weights.data_or_null<float>(), blocks.data<int32_t>(), s, slices, lanes);
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
