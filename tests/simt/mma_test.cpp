// The executor's tensor-core operations are what the PTX ISA says of them.
#include "simt/mma.h"

#include "core/buffer.h"
#include "core/stream.h"
#include "kernels/cuda/runtime.h"
#include "support/catch.h"

#include "simt/executor.h"

#include <cmath>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

template <class T>
Buffer on_device(Stream& stream, const std::vector<T>& values) {
  Buffer buffer(cuda_runtime(), values.size() * sizeof(T));
  cuda_runtime().copy_to_device(stream.native(), buffer.data(), values.data(), buffer.bytes());
  stream.synchronize();
  return buffer;
}

std::vector<float> on_host(Stream& stream, const Buffer& buffer) {
  std::vector<float> values(buffer.bytes() / sizeof(float));
  cuda_runtime().copy_to_host(stream.native(), values.data(), buffer.data(), buffer.bytes());
  stream.synchronize();
  return values;
}

}  // namespace

// Kills: a lane, a pair or a half of one taken for another, in any of the ways in which fragments are loaded.
TEST_CASE("products of fragments are those of the matrices, however the factors lie", "[simt]") {
  std::vector<bfloat16> a(16 * 32), b(32 * 16);
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50);
    b[i] = static_cast<float>(static_cast<int>(i * 53 % 89) - 44);
  }
  std::vector<float> expected(16 * 16);
  for (size_t m = 0; m < 16; ++m) {
    for (size_t n = 0; n < 16; ++n) {
      for (size_t k = 0; k < 32; ++k) {
        expected[m * 16 + n] += static_cast<float>(a[m * 32 + k]) * static_cast<float>(b[k * 16 + n]);
      }
    }
  }
  Stream stream(cuda_runtime());
  const Buffer left = on_device(stream, a), right = on_device(stream, b);
  for (const Layout layout : {Layout::kAlongDepth, Layout::kAcross, Layout::kAcrossByDepths}) {
    const Buffer c = on_device(stream, std::vector<float>(16 * 16));
    run_products(static_cast<float*>(c.data()), static_cast<const bfloat16*>(left.data()),
                 static_cast<const bfloat16*>(right.data()), layout);
    INFO("layout " << static_cast<int>(layout));
    CHECK(on_host(stream, c) == expected);
  }
}

// Kills: results taken for other elements of a factor, truncated instead of rounded, or rounded into the wrong half.
TEST_CASE("results become the left factor of the next product, rounded to bf16", "[simt]") {
  std::vector<bfloat16> a(16 * 32), b(32 * 16), choice(16 * 16, bfloat16(0.0f));
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50);
    b[i] = static_cast<float>(static_cast<int>(i * 53 % 89) - 44);
  }
  std::vector<float> expected(16 * 16);
  for (size_t n = 0; n < 16; ++n) {
    const size_t from = (5 * n + 3) % 16;
    choice[from * 16 + n] = 1.0f;
    for (size_t m = 0; m < 16; ++m) {
      float sum = 0;
      for (size_t k = 0; k < 32; ++k) sum += static_cast<float>(a[m * 32 + k]) * static_cast<float>(b[k * 16 + from]);
      expected[m * 16 + n] = static_cast<float>(bfloat16(sum));
    }
  }
  Stream stream(cuda_runtime());
  const Buffer left = on_device(stream, a), right = on_device(stream, b), next = on_device(stream, choice);
  const Buffer c = on_device(stream, std::vector<float>(16 * 16));
  run_chained_products(static_cast<float*>(c.data()), static_cast<const bfloat16*>(left.data()),
                       static_cast<const bfloat16*>(right.data()), static_cast<const bfloat16*>(next.data()));
  CHECK(on_host(stream, c) == expected);
}

// Kills: a copy that is there before it was waited for, so that a kernel which forgets to wait works here; a wait for
// the wrong group; zeros that are not written.
TEST_CASE("a copy to shared memory arrives when its group is waited for", "[simt]") {
  Stream stream(cuda_runtime());
  const Buffer x = on_device(stream, std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const Buffer y = on_device(stream, std::vector<float>(12));
  run_copies(static_cast<float*>(y.data()), static_cast<const float*>(x.data()));
  const std::vector<float> found = on_host(stream, y);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(std::isnan(found[i]));
    CHECK(found[4 + i] == static_cast<float>(5 + i));
    CHECK(found[8 + i] == 0);
  }
}

// Kills: an address that a GPU refuses, let through.
TEST_CASE("copies and loads of fragments refuse addresses that are not aligned", "[simt]") {
  Stream stream(cuda_runtime());
  const Buffer x = on_device(stream, std::vector<float>(32)), y = on_device(stream, std::vector<float>(32));
  auto* to = static_cast<float*>(y.data());
  CHECK_THROWS_AS(run_misaligned_copy(to, static_cast<const float*>(x.data())), simt::Error);
  CHECK_THROWS_AS(run_misaligned_load(to), simt::Error);
}
