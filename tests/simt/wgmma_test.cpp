// The executor's operations of warpgroups are what the PTX ISA says of them, and refuse what a GPU leaves undefined.
#include "simt/wgmma.h"

#include "core/buffer.h"
#include "core/stream.h"
#include "kernels/cuda/runtime.h"
#include "support/catch.h"

#include "simt/executor.h"

#include <cmath>
#include <utility>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

std::vector<bfloat16> integers(size_t count, size_t factor, size_t range) {
  std::vector<bfloat16> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(i * factor % range) - static_cast<float>(range / 2);
  }
  return values;
}

// c of run(c, a, b), device memory each; a [64,64], b [64,n] as `right` has it
template <class Run>
std::vector<float> result(const std::vector<bfloat16>& left, const std::vector<bfloat16>& right, size_t n, Run&& run) {
  Stream stream(cuda_runtime());
  const Buffer a(cuda_runtime(), left.size() * 2), b(cuda_runtime(), right.size() * 2);
  const Buffer c(cuda_runtime(), 64 * n * sizeof(float));
  cuda_runtime().copy_to_device(stream.native(), a.data(), left.data(), a.bytes());
  cuda_runtime().copy_to_device(stream.native(), b.data(), right.data(), b.bytes());
  stream.synchronize();
  run(static_cast<float*>(c.data()), static_cast<const bfloat16*>(a.data()), static_cast<const bfloat16*>(b.data()));
  std::vector<float> values(64 * n);
  cuda_runtime().copy_to_host(stream.native(), values.data(), c.data(), c.bytes());
  stream.synchronize();
  return values;
}

// right(k, j): element of b
template <class Right>
std::vector<float> product(const std::vector<bfloat16>& left, size_t n, Right&& right) {
  std::vector<float> c(64 * n);
  for (size_t i = 0; i < 64; ++i) {
    for (size_t j = 0; j < n; ++j) {
      for (size_t k = 0; k < 64; ++k)
        c[i * n + j] += static_cast<float>(left[i * 64 + k]) * static_cast<float>(right(k, j));
    }
  }
  return c;
}

std::vector<bfloat16> transposed(const std::vector<bfloat16>& m) {
  std::vector<bfloat16> t(m.size());
  for (size_t i = 0; i < 64; ++i) {
    for (size_t j = 0; j < 64; ++j) t[j * 64 + i] = m[i * 64 + j];
  }
  return t;
}

}  // namespace

// Kills: a row, depth, panel or fragment taken for another; an offset of the descriptor or the swizzle misread.
TEST_CASE("products of a warpgroup are those of the matrices, however these lie", "[simt]") {
  const std::vector<bfloat16> a = integers(64 * 64, 37, 31);
  for (const size_t n : {64, 128, 256}) {
    const std::vector<bfloat16> b = integers(64 * n, 53, 23);
    for (const auto& [left_across, across] : {std::pair{false, false}, {false, true}, {true, true}}) {
      INFO("n " << n << ", across " << left_across << across);
      const auto left = left_across ? transposed(a) : a;
      const auto expected = product(left, n, [&](size_t k, size_t j) { return b[across ? k * n + j : j * 64 + k]; });
      CHECK(result(a, b, n, [&](float* c, const bfloat16* left_of, const bfloat16* right) {
              run_warpgroup_products(c, left_of, right, static_cast<int>(n), left_across, across);
            }) == expected);
    }
  }
}

// Kills: a lane's rows or depths of the left factor taken for others; products added to the other sum, or to what the
// sum was before it began.
TEST_CASE("products of a warpgroup may have their left factor in registers and several sums", "[simt]") {
  const std::vector<bfloat16> a = integers(64 * 64, 37, 31);
  const simt::Options before = simt::options();
  for (const simt::Schedule schedule : {simt::Schedule::kForward, simt::Schedule::kRandom}) {
    simt::options().schedule = schedule;
    for (const size_t n : {128, 256}) {
      const std::vector<bfloat16> b = integers(64 * n, 53, 23);
      for (const bool across : {false, true}) {
        INFO("n " << n << ", across " << across);
        const auto expected = product(a, n, [&](size_t k, size_t j) { return b[across ? k * n + j : j * 64 + k]; });
        CHECK(result(a, b, n, [&](float* c, const bfloat16* left, const bfloat16* right) {
                run_held_products(c, left, right, static_cast<int>(n), across);
              }) == expected);
      }
    }
  }
  simt::options() = before;
}

// Kills: a row, fragment or lane taken for another on the way through shared memory; rows that meet the next there.
TEST_CASE("results of a warp leave by rows, and refuse memory that is not aligned", "[simt]") {
  Stream stream(cuda_runtime());
  const Buffer y(cuda_runtime(), 16 * 64 * sizeof(bfloat16));
  run_turned_rows(static_cast<bfloat16*>(y.data()), 0);
  std::vector<bfloat16> values(16 * 64);
  cuda_runtime().copy_to_host(stream.native(), values.data(), y.data(), y.bytes());
  stream.synchronize();
  for (size_t e = 0; e < values.size(); ++e) REQUIRE(values[e].bits == e);
  CHECK_THROWS_AS(run_turned_rows(static_cast<bfloat16*>(y.data()), 1), simt::Error);
}

// Kills: an executor in which a kernel works that reads sums too early, or overwrites a factor too early.
TEST_CASE("products of a warpgroup are there when they are waited for, and not before", "[simt]") {
  const std::vector<bfloat16> a = integers(64 * 64, 37, 31), b = integers(64 * 64, 53, 23);
  const auto with = [&](Fault fault) {
    return result(a, b, 64, [&](float* c, const bfloat16* left, const bfloat16* right) {
      run_warpgroup_step(c, left, right, fault);
    });
  };
  const auto expected = product(a, 64, [&](size_t k, size_t j) { return b[j * 64 + k]; });
  const simt::Options before = simt::options();
  for (const simt::Schedule schedule : {simt::Schedule::kForward, simt::Schedule::kReverse, simt::Schedule::kRandom}) {
    simt::options().schedule = schedule;
    CHECK(with(Fault::kNone) == expected);
    for (const float value : with(Fault::kNotWaitedFor)) CHECK(std::isnan(value));
    if (schedule != simt::Schedule::kForward) CHECK(with(Fault::kOverwritten) == std::vector<float>(64 * 64));
  }
  simt::options() = before;
}

// Kills: an executor that lets through what is undefined on a GPU.
TEST_CASE("products of a warpgroup refuse what a GPU leaves undefined", "[simt]") {
  const std::vector<bfloat16> a = integers(64 * 64, 37, 31), b = integers(64 * 64, 53, 23);
  for (const Fault fault : {Fault::kNotPublished, Fault::kNotBegun, Fault::kOtherProducts, Fault::kDiverged,
                            Fault::kStaticMemory, Fault::kBeyondEnd}) {
    INFO("fault " << static_cast<int>(fault));
    CHECK_THROWS_AS(result(a, b, 64,
                           [&](float* c, const bfloat16* left, const bfloat16* right) {
                             run_warpgroup_step(c, left, right, fault);
                           }),
                    simt::Error);
  }
}
