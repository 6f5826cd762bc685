// read_rows:  seen[w] ^= rows[index[i]], i = w, w + kReaders, …: a warp w, 16 bytes a lane
// add_rows:   y[index[i]] += x[w mod R], by a warp that keeps its row of x in registers, or in shared memory
#include "kernels/cuda/ceilings.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/unroll.cuh"

#ifndef __CUDACC__
#include <atomic>
#include <bit>
#endif

namespace sffn::cuda {
namespace {

constexpr int kWarps = 8, kWords = kCeilingRowBytes / 16, kPerLane = kWords / 32;

__device__ __forceinline__ int64_t reader() { return int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; }

__global__ void read_rows_kernel(uint4* seen, const uint4* rows, const int32_t* index, int64_t n) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  uint4 all = make_uint4(0, 0, 0, 0);
  for (int64_t i = reader(); i < n; i += kReaders) {
    uint4 word[kPerLane];
    SFFN_UNROLL for (int p = 0; p < kPerLane; ++p) word[p] = __ldg(rows + int64_t{index[i]} * kWords + p * 32 + lane);
    SFFN_UNROLL for (int p = 0; p < kPerLane; ++p) {
      all = make_uint4(all.x ^ word[p].x, all.y ^ word[p].y, all.z ^ word[p].z, all.w ^ word[p].w);
    }
  }
  seen[reader() * 32 + lane] = all;
}

#ifdef __CUDACC__
// 16 bytes of memory += `word`
template <class T>
__device__ __forceinline__ void add_word(uint4* to, const uint4& word) {
#if __CUDA_ARCH__ >= 900
  if constexpr (std::is_same_v<T, float>) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "f"(__uint_as_float(word.x)),
                 "f"(__uint_as_float(word.y)), "f"(__uint_as_float(word.z)), "f"(__uint_as_float(word.w))
                 : "memory");
  } else {
    asm volatile("red.global.add.noftz.v4.bf16x2 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "r"(word.x), "r"(word.y),
                 "r"(word.z), "r"(word.w)
                 : "memory");
  }
#endif
}

// The row of memory += the row of shared memory; the caller waits for all of them with wait_for_rows.
template <class T>
__device__ __forceinline__ void add_shared_row(uint4* to, const uint4* row) {
#if __CUDA_ARCH__ >= 900
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (std::is_same_v<T, float>) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;\n" ::"l"(to), "r"(from),
                 "n"(kCeilingRowBytes)
                 : "memory");
  } else {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 [%0], [%1], %2;\n" ::"l"(to),
                 "r"(from), "n"(kCeilingRowBytes)
                 : "memory");
  }
#endif
}
// What was written to shared memory becomes visible to bulk copies.
__device__ __forceinline__ void publish_shared_rows() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_rows() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n" ::: "memory");
#endif
}
#else
template <class T>
void add_word(uint4* to, const uint4& word) {
  using Bits = std::conditional_t<std::is_same_v<T, float>, uint32_t, uint16_t>;
  const Bits* terms = reinterpret_cast<const Bits*>(&word);
  for (size_t e = 0; e < sizeof word / sizeof(Bits); ++e) {
    std::atomic_ref<Bits> bits(reinterpret_cast<Bits*>(to)[e]);
    Bits before = bits.load(std::memory_order_relaxed);
    T sum;
    do {
      store(sum, to_float(std::bit_cast<T>(before)) + to_float(std::bit_cast<T>(terms[e])));
    } while (!bits.compare_exchange_weak(before, std::bit_cast<Bits>(sum), std::memory_order_relaxed));
  }
}
template <class T>
void add_shared_row(uint4* to, const uint4* row) {
  for (int w = 0; w < kWords; ++w) add_word<T>(to + w, row[w]);
}
void publish_shared_rows() {}
void wait_for_rows() {}
#endif

template <class T>
__global__ void add_row_words_kernel(uint4* y, const uint4* x, const int32_t* index, int64_t n, int64_t rows) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  uint4 word[kPerLane];
  SFFN_UNROLL for (int p = 0; p < kPerLane; ++p) word[p] = x[reader() % rows * kWords + p * 32 + lane];
  for (int64_t i = reader(); i < n; i += kReaders) {
    uint4* to = y + int64_t{index[i]} * kWords + lane;
    SFFN_UNROLL for (int p = 0; p < kPerLane; ++p) add_word<T>(to + p * 32, word[p]);
  }
}

template <class T>
__global__ void add_bulk_rows_kernel(uint4* y, const uint4* x, const int32_t* index, int64_t n, int64_t rows) {
  alignas(16) __shared__ uint4 row_of_warp[kWarps][kWords];
  const auto lane = static_cast<int>(threadIdx.x % 32);
  uint4* row = row_of_warp[threadIdx.x / 32];
  for (int w = lane; w < kWords; w += 32) row[w] = x[reader() % rows * kWords + w];
  publish_shared_rows();
  __syncwarp();
  if (lane != 0) return;
  for (int64_t i = reader(); i < n; i += kReaders) add_shared_row<T>(y + int64_t{index[i]} * kWords, row);
  wait_for_rows();
}

const LaunchShape kShape{kReaders / kWarps, 32 * kWarps};

int64_t words_of(const Tensor& rows, const char* op) {
  SFFN_CHECK(rows.bytes() == static_cast<size_t>(rows.rows() * kCeilingRowBytes), op, ": rows are not of 2 KiB");
  return rows.rows();
}

}  // namespace

void read_rows(Stream& stream, Tensor seen, const Tensor& rows, const Tensor& index) {
  words_of(rows, "read_rows");
  const int64_t n = index.numel();
  launch(stream, read_rows_kernel, kShape, Work{bytes_for<uint4>(n * kWords) + bytes_of(seen, index)},
         static_cast<uint4*>(seen.raw()), static_cast<const uint4*>(rows.raw()), index.data<int32_t>(), n);
}

void add_rows(Stream& stream, Tensor y, const Tensor& x, const Tensor& index, RowReduction reduction) {
  const int64_t rows = words_of(x, "add_rows"), n = index.numel();
  words_of(y, "add_rows");
  const Work work{bytes_for<uint4>(n * kWords) + bytes_of(x, index)};
  with_activation_type("add_rows", y, [&]<class T>(T) {
    launch(stream, reduction == RowReduction::kBulk ? add_bulk_rows_kernel<T> : add_row_words_kernel<T>, kShape, work,
           static_cast<uint4*>(y.raw()), static_cast<const uint4*>(x.raw()), index.data<int32_t>(), n, rows);
  });
}

bool can_add_rows(Stream& stream) {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, native(stream).device), "the device");
  return major >= 9;
}

}  // namespace sffn::cuda
