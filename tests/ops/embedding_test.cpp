#include "kernels/ref/embedding.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <string>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

std::vector<int32_t> drawn_ids(int64_t n, uint32_t rows, uint64_t stream) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(random_bits({9, stream}, i) % rows);
  return ids;
}

struct EmbeddingCase {
  static constexpr int64_t kVocab = 37, kPlaces = 20;
  HostTensor tokens, places, ids, positions, out, dout, dtokens, dplaces;

  EmbeddingCase(DType dtype, int64_t N, int64_t D, bool with_positions, bool integers) {
    const DType acc = accumulate_type(dtype);
    const auto draw = [&](int64_t rows, uint64_t stream) {
      const auto n = static_cast<size_t>(rows * D);
      return integers ? integer_values(n, stream, 3) : random_values(n, stream);
    };
    tokens = HostTensor(dtype, {kVocab, D}, draw(kVocab, 1));
    ids = HostTensor::indices(drawn_ids(N, kVocab, 1));
    out = HostTensor(dtype, {N, D});
    dout = HostTensor(dtype, {N, D}, draw(N, 3));
    dtokens = HostTensor(acc, {kVocab, D}, draw(kVocab, 4));
    if (!with_positions) return;
    places = HostTensor(dtype, {kPlaces, D}, draw(kPlaces, 2));
    positions = HostTensor::indices(drawn_ids(N, kPlaces, 2));
    dplaces = HostTensor(acc, {kPlaces, D}, draw(kPlaces, 5));
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::embedding_forward(stream, out, tokens, ids, places, positions);
    ops::embedding_backward(stream, dtokens, dplaces, dout, ids, positions);
  }
  EmbeddingCase as(DType dtype) const {
    EmbeddingCase c = *this;
    for (HostTensor* t : {&c.tokens, &c.places, &c.out, &c.dout, &c.dtokens, &c.dplaces}) *t = t->as(dtype);
    return c;
  }
};

std::string error_of(EmbeddingCase& c) {
  try {
    c.run();
  } catch (const RunError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// Kills: adding dout once per distinct id, or to the wrong table.
TEST_CASE("the reference embedding's backward is the complex step of its forward", "[ops][embedding]") {
  const int64_t N = 5, D = 3;
  const std::vector<int32_t> ids = {2, 0, 2, 3, 2}, positions = {0, 1, 0, 1, 2};
  const auto tokens = random_values(12, 1), places = random_values(9, 2), dout = random_values(15, 3);
  std::vector<double> dtokens(12), dplaces(9);
  ref::embedding_backward(dtokens.data(), dplaces.data(), dout.data(), ids.data(), positions.data(), N, D);
  const auto run = [&](const std::vector<Complex>& t, const std::vector<Complex>& p) {
    std::vector<Complex> out(15);
    ref::embedding_forward(out.data(), t.data(), ids.data(), p.data(), positions.data(), N, D);
    return out;
  };
  const auto ct = to_complex(tokens), cp = to_complex(places);
  check_close(dtokens, complex_step_gradient(tokens, dout, [&](const auto& x) { return run(x, cp); }), 1e-12);
  check_close(dplaces, complex_step_gradient(places, dout, [&](const auto& x) { return run(ct, x); }), 1e-12);
}

// Kills: a wrong row, a lost column tile, overwriting where gradients accumulate.
TEST_CASE("embeddings are exact on integers at every width", "[ops][embedding]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const bool with_positions = GENERATE(false, true);
  for (int64_t D : all_or_few({1, 31, 33, 64, 127, 300}, {31, 64})) {
    for (int64_t N : all_or_few({0, 1, 31, 150}, {150})) {
      EmbeddingCase low(dtype, N, D, with_positions, true), ref = low.as(DType::kF64);
      low.run();
      ref.run();
      CHECK(low.out.values() == ref.out.values());
      CHECK(low.dtokens.values() == ref.dtokens.values());
      CHECK((!with_positions || low.dplaces.values() == ref.dplaces.values()));
    }
  }
}

// Kills: an order of tokens that is not by row, runs of a row cut at a tile or chunk and not joined again, or joined to
// the row before.
TEST_CASE("gradients of rows that one token or most tokens name are exact on integers", "[ops][embedding]") {
  const int64_t D = 3;
  for (int64_t rows : all_or_few({1, 300, 70'000}, {300})) {
    for (int64_t N : all_or_few({64, 2049, 5000}, {2049})) {
      std::vector<int32_t> ids = drawn_ids(N, static_cast<uint32_t>(rows), 3);
      for (size_t i = 0; i < ids.size(); ++i) {
        if (i % 7 < 4) ids[i] = static_cast<int32_t>(i % 7 < 3 ? rows / 2 : rows - 1);
      }
      const HostTensor table(DType::kF32, {rows, D}, integer_values(static_cast<size_t>(rows * D), 1, 3));
      const HostTensor dout(DType::kF32, {N, D}, integer_values(static_cast<size_t>(N * D), 2, 3));
      const HostTensor low = table, exact = table.as(DType::kF64);
      Stream stream(cpu_runtime());
      ops::embedding_backward(stream, low, Tensor(), dout, HostTensor::indices(ids), Tensor());
      ops::embedding_backward(stream, exact, Tensor(), dout.as(DType::kF64), HostTensor::indices(ids), Tensor());
      INFO(rows << " rows, " << N << " tokens");
      CHECK(low.values() == exact.values());
    }
  }
}

// Kills: summing gradients in bf16.
TEST_CASE("embedding gradients of bf16 activations accumulate in f32", "[ops][embedding]") {
  EmbeddingCase low(DType::kBF16, 3000, 33, true, false), ref = low.as(DType::kF64);
  low.run();
  ref.run();
  const auto expected = ref.dtokens.values();
  check_within(low.dtokens.values(), expected,
               [&](size_t i) { return tolerances::sum_of_products(200, 200, expected[i], DType::kF32); });
}

// Kills: rows of one token divided among threads in arrival order.
TEST_CASE("embeddings give the same bits for any number of threads", "[ops][embedding]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  check_same_on_any_threads([&] {
    EmbeddingCase c(dtype, 1000, 400, true, false);
    c.run();
    std::vector<std::byte> bytes = c.out.bytes();
    for (const HostTensor* t : {&c.dtokens, &c.dplaces})
      bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
    return bytes;
  });
}

// Kills: reading outside the table.
TEST_CASE("an id outside the table is an error that names it", "[ops][embedding][cpu]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64);
  EmbeddingCase c(dtype, 3, 4, true, false);
  c.ids = HostTensor::indices({0, 37, 1});
  CHECK(error_of(c) == "embedding_forward: ids[1] is 37; expected 0 to 36");
  c.ids = HostTensor::indices({0, 3, -1});
  CHECK(error_of(c) == "embedding_forward: ids[2] is -1; expected 0 to 36");
  c.ids = HostTensor::indices({0, 3, 1});
  c.positions = HostTensor::indices({20, 3, 1});
  CHECK(error_of(c) == "embedding_forward: positions[0] is 20; expected 0 to 19");
}
