#include "kernels/cpu/matmul.h"

#include "core/runtime.h"
#include "core/stream.h"
#include "kernels/cpu/capabilities.h"
#include "kernels/cpu/gemm.h"
#include "kernels/ops.h"
#include "kernels/ref/matmul.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

using namespace sffn;
using sffn::cpu::Bf16Matmul;
using sffn::cpu::MatmulProblem;

namespace {

struct Case {
  int64_t M, N, K;
  Transpose ta = Transpose::kNo, tb = Transpose::kNo;
  DType input = DType::kF32, output = DType::kF32;
  bool bias = false;
  Accumulate accumulate = Accumulate::kNo;

  std::string str() const {
    return cat(M, "x", N, "x", K, ta == Transpose::kYes ? " aT" : "", tb == Transpose::kYes ? " bT" : "", " ",
               name_of(input), " to ", name_of(output), bias ? " bias" : "",
               accumulate == Accumulate::kYes ? " accumulate" : "");
  }
};

// Values a floating dtype of the test can hold, and the bytes of that dtype.
struct Values {
  DType dtype;
  std::vector<double> exact;
  std::vector<std::byte> bytes;

  Values(DType type, std::vector<double> values) : dtype(type), exact(std::move(values)) {
    bytes.resize(exact.size() * size_of(dtype) + 1);  // never empty: a pointer to it is not null
    for (size_t i = 0; i < exact.size(); ++i) {
      const auto value = static_cast<float>(exact[i]);
      if (dtype == DType::kBF16) {
        reinterpret_cast<bfloat16*>(bytes.data())[i] = bfloat16(value);
      } else {
        reinterpret_cast<float*>(bytes.data())[i] = value;
      }
      exact[i] = at(i);
    }
  }
  double at(size_t i) const {
    return dtype == DType::kBF16 ? static_cast<float>(reinterpret_cast<const bfloat16*>(bytes.data())[i])
                                 : reinterpret_cast<const float*>(bytes.data())[i];
  }
};

std::vector<double> normal_values(int64_t count, uint64_t seed) {
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[i] = random_normal(RandomKey{seed, 7}, static_cast<uint64_t>(i));
  return values;
}
std::vector<double> small_integers(int64_t count, uint64_t seed) {
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>(random_bits(RandomKey{seed, 9}, static_cast<uint64_t>(i)) % 5) - 2;
  }
  return values;
}

struct Operands {
  Values a, b, bias, c;

  Operands(const Case& t, std::vector<double> (*make)(int64_t, uint64_t))
      : a(t.input, make(t.M * t.K, 1)),
        b(t.input, make(t.K * t.N, 2)),
        bias(DType::kF32, make(t.N, 3)),
        c(t.output, make(t.M * t.N, 4)) {}

  MatmulProblem problem(const Case& t) {
    return {.M = t.M,
            .N = t.N,
            .K = t.K,
            .ta = t.ta,
            .tb = t.tb,
            .accumulate = t.accumulate,
            .input = t.input,
            .output = t.output,
            .c = c.bytes.data(),
            .a = a.bytes.data(),
            .b = b.bytes.data(),
            .bias = t.bias ? reinterpret_cast<const float*>(bias.bytes.data()) : nullptr};
  }
};

// The product in double, and Σ|a·b| (+ |bias| + |c|) of each element.
struct Judge {
  std::vector<double> exact, magnitude;

  Judge(const Case& t, const Operands& o) : exact(o.c.exact), magnitude(o.c.exact) {
    run(t, exact, o.a.exact, o.b.exact, o.bias.exact);
    for (double& value : magnitude) value = std::abs(value);
    run(t, magnitude, absolute(o.a.exact), absolute(o.b.exact), absolute(o.bias.exact));
  }

 private:
  static std::vector<double> absolute(std::vector<double> values) {
    for (double& value : values) value = std::abs(value);
    return values;
  }
  static void run(const Case& t, std::vector<double>& c, const std::vector<double>& a, const std::vector<double>& b,
                  const std::vector<double>& bias) {
    ref::matmul(c.data(), a.data(), t.ta, b.data(), t.tb, t.bias ? bias.data() : nullptr, t.accumulate, t.M, t.N, t.K);
  }
};

// Elements outside the derived bound.
int64_t wrong_elements(const Case& t, const Values& c, const Judge& judge) {
  int64_t wrong = 0;
  for (size_t i = 0; i < judge.exact.size(); ++i) {
    const double bound = tolerances::sum_of_products(t.K + 2, judge.magnitude[i], judge.exact[i], t.output);
    wrong += !(std::abs(c.at(i) - judge.exact[i]) <= bound);
  }
  return wrong;
}

std::vector<Case> small_cases() {
  std::vector<Case> cases;
  const int64_t sizes[][3] = {{1, 1, 1},       {1, 31, 33}, {31, 33, 127}, {33, 127, 1}, {127, 1, 31},
                              {127, 127, 127}, {33, 31, 0}, {0, 33, 31},   {31, 0, 1}};
  for (const auto& s : sizes) {
    for (int flags = 0; flags < 16; ++flags) {
      for (auto [input, output] : {std::pair{DType::kF32, DType::kF32}, std::pair{DType::kBF16, DType::kF32},
                                   std::pair{DType::kBF16, DType::kBF16}}) {
        cases.push_back({s[0], s[1], s[2], Transpose(flags & 1), Transpose(flags >> 1 & 1), input, output,
                         (flags & 4) != 0, Accumulate(flags >> 3)});
      }
    }
  }
  return cases;
}

int number_of_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}
void set_threads([[maybe_unused]] int threads) {
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
}

// Elements that differ from the exact value (which c can hold).
int64_t inexact_elements(const Values& c, const Judge& judge) {
  int64_t wrong = 0;
  for (size_t i = 0; i < judge.exact.size(); ++i) wrong += c.at(i) != judge.exact[i];
  return wrong;
}

std::vector<std::byte> product_on_threads(const MatmulProblem& problem, Bf16Matmul path, int threads) {
  const auto bytes = static_cast<size_t>(problem.M * problem.N) * size_of(problem.output);
  std::memset(problem.c, 0xff, bytes);
  const int before = number_of_threads();
  set_threads(threads);
  cpu::matmul_in_tiles(problem, path);
  set_threads(before);
  const auto* c = static_cast<const std::byte*>(problem.c);
  return {c, c + bytes};
}
bool same_bits_on_1_2_4_threads(const MatmulProblem& problem, Bf16Matmul path) {
  const auto alone = product_on_threads(problem, path, 1);
  return product_on_threads(problem, path, 2) == alone && product_on_threads(problem, path, 4) == alone;
}

// One GEMM on integers whose operands have rows `pad` longer than they need; also true of the elements between rows.
bool exact_within_wider_matrices(cpu::Gemm g, int64_t pad) {
  const bool ta = g.ta == Transpose::kYes, tb = g.tb == Transpose::kYes;
  g.lda = (ta ? g.m : g.k) + pad, g.ldb = (tb ? g.k : g.n) + pad, g.ldc = g.n + pad;
  const Values a(DType::kF32, small_integers((ta ? g.k : g.m) * g.lda, 1));
  const Values b(DType::kF32, small_integers((tb ? g.n : g.k) * g.ldb, 2));
  Values c(DType::kF32, small_integers(g.m * g.ldc, 3));
  std::vector<double>& expected = c.exact;
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; ++j) {
      double sum = g.accumulate == Accumulate::kYes ? expected[i * g.ldc + j] : 0;
      for (int64_t k = 0; k < g.k; ++k) {
        sum += a.exact[ta ? k * g.lda + i : i * g.lda + k] * b.exact[tb ? j * g.ldb + k : k * g.ldb + j];
      }
      expected[i * g.ldc + j] = sum;
    }
  }
  cpu::run_gemm(g, c.bytes.data(), a.bytes.data(), b.bytes.data(), nullptr);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (c.at(i) != expected[i]) return false;
  }
  return true;
}

}  // namespace

// Kills: swapped transposes or leading dimensions, a bias or old c left out or added twice, a bias of one type read as
// another, K = 0 leaving c unwritten, of whatever library the device takes its products from.
TEST_CASE("the op of a matrix product equals the plain loops in double within the bound of its sums", "[ops][matmul]") {
  Stream stream(cpu_runtime());
  for (const Case& t : small_cases()) {
    const Operands o(t, normal_values);
    const Judge judge(t, o);
    const bool ta = t.ta == Transpose::kYes, tb = t.tb == Transpose::kYes;
    const test::HostTensor a(t.input, ta ? Shape{t.K, t.M} : Shape{t.M, t.K}, o.a.exact);
    const test::HostTensor b(t.input, tb ? Shape{t.N, t.K} : Shape{t.K, t.N}, o.b.exact);
    const test::HostTensor bias = t.bias ? test::HostTensor(DType::kF32, {t.N}, o.bias.exact) : test::HostTensor();
    const test::HostTensor c(t.output, {t.M, t.N}, o.c.exact);
    ops::matmul(stream, c, a, t.ta, b, t.tb, bias, t.accumulate);
    INFO(t.str());
    int64_t wrong = 0;
    const std::vector<double> made = c.values();
    for (size_t i = 0; i < judge.exact.size(); ++i) {
      // A library may round bias and product to bf16 before it adds them.
      const double added = t.bias ? o.bias.exact[i % static_cast<size_t>(t.N)] : 0;
      const double parts = t.bias ? std::abs(added) + std::abs(judge.exact[i] - added) : 0;
      const double bound = tolerances::sum_of_products(t.K + 2, judge.magnitude[i], judge.exact[i], t.output) +
                           (t.output == DType::kBF16 ? tolerances::unit_roundoff(t.output) * parts : 0);
      wrong += !(std::abs(made[i] - judge.exact[i]) <= bound);
    }
    CHECK(wrong == 0);
  }
}

// Kills: swapped transposes or leading dimensions, a bias or old c left out, K = 0 leaving c unwritten.
TEST_CASE("A matrix product equals the plain loops in double within the bound of its sums", "[matmul][cpu]") {
  for (const Case& t : small_cases()) {
    for (Bf16Matmul path : {Bf16Matmul::kNative, Bf16Matmul::kThroughF32}) {
      if (path == Bf16Matmul::kNative && t.input == DType::kBF16 && !cpu::cpu_has_bf16_matmul()) continue;
      Operands operands(t, normal_values);
      const Judge judge(t, operands);
      cpu::matmul_in_tiles(operands.problem(t), path);
      INFO(t.str() << (path == Bf16Matmul::kNative ? "" : " through fp32"));
      CHECK(wrong_elements(t, operands.c, judge) == 0);
    }
  }
}

// Kills: a tile at the wrong place or size, a slice of K left out or taken twice.
TEST_CASE("A product of small integers is exact in many tiles and many slices of K", "[matmul][cpu]") {
  const int64_t sizes[][3] = {{700, 300, 70}, {130, 2100, 65}, {1, 1100, 40}, {600, 129, 1100}, {257, 65, 64}};
  for (const auto& s : sizes) {
    for (int flags = 0; flags < 4; ++flags) {
      for (DType input : {DType::kF32, DType::kBF16}) {
        const Case t{s[0],  s[1],        s[2], Transpose(flags & 1), Transpose(flags >> 1),
                     input, DType::kF32, true, Accumulate::kYes};
        Operands operands(t, small_integers), through_f32(t, small_integers);
        const Judge judge(t, operands);
        INFO(t.str());
        cpu::matmul_in_tiles(operands.problem(t),
                             cpu::cpu_has_bf16_matmul() ? Bf16Matmul::kNative : Bf16Matmul::kThroughF32);
        CHECK(inexact_elements(operands.c, judge) == 0);
        cpu::matmul_in_tiles(through_f32.problem(t), Bf16Matmul::kThroughF32);
        CHECK(inexact_elements(through_f32.c, judge) == 0);
      }
    }
  }
}

// Kills: a GEMM that cuts K by thread, oneDNN left to use all threads in a team of one or for a single tile.
TEST_CASE("A matrix product has the same bits on 1, 2 and 4 threads", "[matmul][threads][cpu]") {
  const int64_t sizes[][3] = {{48, 48, 65536}, {128, 128, 4096}, {512, 256, 1024}, {32, 128, 16384}, {1, 1024, 4096}};
  for (const auto& s : sizes) {
    for (DType input : {DType::kF32, DType::kBF16}) {
      Case t{s[0], s[1], s[2], Transpose::kNo, Transpose::kNo, input};
      Operands operands(t, normal_values);
      for (int flags = 0; flags < 8; ++flags) {
        t.ta = Transpose(flags & 1), t.tb = Transpose(flags >> 1 & 1);
        const auto path = Bf16Matmul(flags >> 2);
        if (path == Bf16Matmul::kThroughF32 ? input == DType::kF32
                                            : input == DType::kBF16 && !cpu::cpu_has_bf16_matmul()) {
          continue;
        }
        INFO(t.str() << (path == Bf16Matmul::kNative ? "" : " through fp32"));
        CHECK(same_bits_on_1_2_4_threads(operands.problem(t), path));
      }
    }
  }
}

// Kills: oneDNN left to use the threads of the program outside a parallel region, where it cuts K by thread.
TEST_CASE("One GEMM has the same bits whatever the number of threads around it", "[matmul][threads][cpu]") {
  const Case t{48, 48, 65536, Transpose::kYes};
  const Operands operands(t, normal_values);
  const cpu::Gemm g{.m = t.M, .n = t.N, .k = t.K, .lda = t.M, .ldb = t.N, .ldc = t.N, .ta = t.ta};
  test::check_same_on_any_threads([&] {
    std::vector<float> c(static_cast<size_t>(t.M * t.N));
    // In a thread of its own, which has no primitive yet that was made for another number of threads.
    std::thread([&, threads = number_of_threads()] {
      set_threads(threads);
      cpu::run_gemm(g, c.data(), operands.a.bytes.data(), operands.b.bytes.data(), nullptr);
    }).join();
    return c;
  });
}

// Kills: a column of a wider matrix taken for contiguous (oneDNN 3.7.2 reads and overwrites its neighbours).
TEST_CASE("Matrices cut from wider ones leave their neighbours alone", "[matmul][cpu]") {
  for (int flags = 0; flags < 8; ++flags) {
    for (int64_t m : {1, 2, 17}) {
      for (int64_t n : {1, 2, 17}) {
        for (int64_t k : {1, 2, 33}) {
          cpu::Gemm g{.m = m, .n = n, .k = k, .ta = Transpose(flags & 1), .tb = Transpose(flags >> 1 & 1)};
          g.accumulate = Accumulate(flags >> 2);
          INFO(m << "x" << n << "x" << k << " flags " << flags);
          CHECK(exact_within_wider_matrices(g, 5));
        }
      }
    }
  }
}

// Kills: a call that leaves oneDNN's choice of one thread behind for the rest of the program.
TEST_CASE("A matrix product leaves the number of threads as it was", "[matmul][threads][cpu]") {
  const Case t{64, 64, 64};
  Operands operands(t, normal_values);
  const int before = number_of_threads();
  cpu::matmul_in_tiles(operands.problem(t), Bf16Matmul::kNative);
  CHECK(number_of_threads() == before);
}

// Kills: a tile that is empty or larger than the output, one tile for all of a large product.
TEST_CASE("Tiles are within the output and large products have at least four", "[matmul][cpu]") {
  for (int64_t M : {1, 31, 127, 128, 513, 2048, 50304}) {
    for (int64_t N : {1, 31, 127, 128, 513, 1024, 2048, 50304}) {
      for (int flags = 0; flags < 4; ++flags) {
        const cpu::TileSize tile =
            cpu::matmul_tile({.M = M, .N = N, .K = 768, .ta = Transpose(flags & 1), .tb = Transpose(flags >> 1)});
        INFO(M << "x" << N << " in " << tile.rows << "x" << tile.cols);
        CHECK((tile.rows >= 1 && tile.rows <= M && tile.cols >= 1 && tile.cols <= N));
        const int64_t tiles = ((M + tile.rows - 1) / tile.rows) * ((N + tile.cols - 1) / tile.cols);
        CHECK((M * N < 256 * 256 || tiles >= 4));
      }
    }
  }
}
