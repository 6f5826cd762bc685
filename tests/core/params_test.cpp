#include "core/params.h"

#include "support/catch.h"
#include "support/error_of.h"

#include <string>
#include <vector>

using namespace sffn;
using sffn::test::error_of;

namespace {

ParamSpec spec(const char* name, Shape shape, Storage storage = Storage::kMatrix, int64_t padded_rows = 0) {
  ParamSpec s;
  s.name = name, s.shape = shape, s.storage = storage, s.padded_rows = padded_rows;
  return s;
}

// Three matrices and two vectors, registered in mixed order.
void fill(ParamStore& store) {
  store.add(spec("embedding", {5, 33}, Storage::kMatrix, 8));
  store.add(spec("norm", {31}, Storage::kVector));
  store.add(spec("keys", {127, 200}));
  store.add(spec("bias", {1}, Storage::kVector));
  store.add(spec("values", {1, 1}));
}

}  // namespace

// Kills: vectors between matrices, offsets that are not aligned, padding counted as parameters.
TEST_CASE("matrices come first, then vectors, each at a multiple of 64 elements", "[params]") {
  ParamStore store;
  fill(store);
  store.allocate(cpu_runtime(), DType::kBF16);
  std::vector<int64_t> offsets;
  for (const Param& p : store.all()) offsets.push_back(p.offset);
  const int64_t keys = 320, values = keys + 25408, norm = values + 64, bias = norm + 64;  // 8·33 → 320, 127·200 → 25408
  CHECK(offsets == std::vector<int64_t>{0, norm, keys, bias, values});
  CHECK(store.matrix_size() == norm);
  CHECK(store.flat_size() == bias + 64);
  CHECK(store.parameter_count() == 5 * 33 + 31 + 127 * 200 + 1 + 1);
  CHECK(store.find("embedding")->value.shape() == Shape{8, 33});
  CHECK(store.find("embedding")->value.dtype() == DType::kBF16);
  CHECK(store.find("norm")->value.dtype() == DType::kF32);
  CHECK(store.find("norm")->value.raw() == store.flat_vectors().raw());
  CHECK(store.find("values")->value.raw() == store.flat_matrices().slice(values, 1).raw());
  CHECK(store.find("absent") == nullptr);
  CHECK(store.bytes() == static_cast<size_t>(norm) * 2 + 128 * 4);
}

// Kills: chunks across parameters, a lost last chunk, gaps counted as elements.
TEST_CASE("chunks cover every element of every parameter once, in flat order", "[params]") {
  ParamStore store;
  fill(store);
  store.allocate(cpu_runtime(), DType::kF32);
  int64_t covered = 0, end = 0;
  for (const ParamChunk& chunk : store.chunks()) {
    CHECK(chunk.offset >= end);
    CHECK(chunk.count >= 1);
    CHECK(chunk.count <= ParamStore::kChunk);
    CHECK(chunk.offset >= chunk.param->offset);
    CHECK(chunk.offset + chunk.count <= chunk.param->offset + chunk.param->count);
    end = chunk.offset + chunk.count;
    covered += chunk.count;
  }
  int64_t expected = 0;
  for (const Param& p : store.all()) expected += p.count;
  CHECK(covered == expected);
  CHECK(store.chunks().size() == 6);  // keys take two
}

// Kills: a stride in rows of the rank, parts that are taken for one, a vector's elements counted as rows.
TEST_CASE("the rows that a rank holds of every part are runs of elements, in memory and in the whole", "[params]") {
  ParamSpec table = spec("keys", {24, 5}), vector = spec("bias", {24}), whole = spec("whole", {24, 5}, {}, 32);
  table.parts = vector.parts = 3;
  table.held = vector.held = {.first = 2, .count = 4};  // of the 8 of each part
  const auto runs_of = [](const ParamSpec& s) {
    std::vector<std::vector<int64_t>> runs;
    for (const ElementRun& run : s.runs()) runs.push_back({run.at, run.first, run.count});
    return runs;
  };
  using Runs = std::vector<std::vector<int64_t>>;
  CHECK(runs_of(table) == Runs{{0, 10, 20}, {20, 50, 20}, {40, 90, 20}});
  CHECK(runs_of(vector) == Runs{{0, 2, 4}, {4, 10, 4}, {8, 18, 4}});
  CHECK(runs_of(whole) == Runs{{0, 0, 120}});
  ParamStore store;
  store.add(table);
  store.allocate(cpu_runtime(), DType::kF32);
  CHECK(store.find("keys")->value.shape() == Shape{12, 5});
  table.held.count = 7;
  CHECK(error_of([&] { ParamStore().add(table); }).says("keys: cannot hold rows 2 to 9 of [24, 5] in 3 parts"));
}

// Kills: gradients of bf16 parameters in bf16, a gradient bound to another parameter's range.
TEST_CASE("gradients share the index space of values, in the accumulate type", "[params]") {
  ParamStore store;
  fill(store);
  store.allocate(cpu_runtime(), DType::kBF16);
  Buffer flat(cpu_runtime(), {store.flat_size()}, DType::kF32);
  store.use_gradients(flat.tensor({store.flat_size()}, DType::kF32));
  for (const Param& p : store.all()) {
    CHECK(p.grad.shape() == p.value.shape());
    CHECK(p.grad.dtype() == DType::kF32);
    CHECK(p.grad.data<float>() - static_cast<float*>(flat.data()) == p.offset);
  }
  CHECK_THROWS_AS(store.use_gradients(flat.tensor({store.flat_size() - 1}, DType::kF32)), RunError);
}

// Kills: two parameters of one name, padding to fewer rows, allocating twice.
TEST_CASE("a parameter store refuses names twice, padding that cuts, and a second allocation", "[params]") {
  ParamStore store;
  store.add(spec("a", {4, 2}));
  CHECK(error_of([&] { store.add(spec("a", {4, 2})); }).says("the parameter a was added twice"));
  store.allocate(cpu_runtime(), DType::kF32);
  CHECK_THROWS_AS(store.allocate(cpu_runtime(), DType::kF32), RunError);
  ParamStore cut;
  CHECK(error_of([&] { cut.add(spec("b", {4, 2}, Storage::kMatrix, 3)); }).says("cannot pad [4, 2] to 3 rows"));
}

// Kills: decay on biases and norms.
TEST_CASE("weight decay acts on tensors of rank two and more", "[params]") {
  CHECK(spec("matrix", {2, 2}).decay());
  CHECK_FALSE(spec("vector", {2}).decay());
  CHECK_FALSE(spec("scalar", {}).decay());
}
