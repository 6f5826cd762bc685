// Matrix products of one stream: what is kept between them.
#include "core/buffer.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"
#include "nn/host_values.h"
#include "support/catch.h"

using namespace sffn;

namespace {

// Whole numbers, so that every sum is exact.
std::vector<double> numbers(int64_t count) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<double>(i * 7 % 5 - 2));
  return values;
}

}  // namespace

// Kills: an algorithm for aligned operands that gets others of the same shape; a result in the memory of the products
// before.
TEST_CASE("products of one shape share an algorithm, those of another alignment have their own", "[device]") {
  constexpr int64_t M = 5, N = 24, K = 16;
  Stream stream(cuda_runtime());
  const Buffer memory(cuda_runtime(), {2 * (M * K + K * N + M * N)}, DType::kBF16);
  const Tensor all = memory.tensor({2 * (M * K + K * N + M * N)}, DType::kBF16);
  const std::vector<double> a = numbers(M * K), b = numbers(K * N);
  std::vector<double> expected(static_cast<size_t>(M * N));
  for (int64_t e = 0; e < M * N * K; ++e) {
    const int64_t m = e / (N * K), n = e / K % N, k = e % K;
    expected[static_cast<size_t>(m * N + n)] += a[static_cast<size_t>(m * K + k)] * b[static_cast<size_t>(k * N + n)];
  }
  for (const int64_t offset : {0, 1, 4, 0, 1, 4}) {
    INFO("offset " << offset);
    const Tensor left = all.slice(offset, M * K).view({M, K});
    const Tensor right = all.slice(2 * M * K, K * N).view({K, N});
    const Tensor out = all.slice(2 * (M * K + K * N), M * N).view({M, N});
    write_values(stream, left, a);
    write_values(stream, right, b);
    ops::matmul(stream, out, left, Transpose::kNo, right, Transpose::kNo, Tensor(), Accumulate::kNo);
    CHECK(read_values(stream, out) == expected);
  }
  CHECK(cuda::describe_products(stream).size() == 3);
}
