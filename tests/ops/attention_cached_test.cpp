#include "support/few_shapes.h"

#include "ops/attention_case.h"

#include <cmath>
#include <limits>
#include <tuple>

using namespace sffn;
using namespace sffn::test;

namespace {

// The case's tokens fed in pieces: out [B·T, H·d_h] as attention_forward orders it. What the cache holds beyond the
// tokens so far is NaN.
std::vector<double> run_in_pieces(DType dtype, const AttentionCase& c, const std::vector<int64_t>& pieces) {
  const AttentionShape& s = c.shape;
  const int64_t capacity = s.time + 3, width = s.qkv_width(), row = 2 * s.kv_heads * s.head_dim;
  const std::vector<double> unused(static_cast<size_t>(s.batch * capacity * row),
                                   std::numeric_limits<double>::quiet_NaN());
  const HostTensor cache(dtype, {s.batch, capacity, row}, unused);
  std::vector<double> out(c.dout.size());
  Stream stream(cpu_runtime());
  int64_t first = 0;
  for (const int64_t count : pieces) {
    AttentionShape piece = s;
    piece.time = count;
    std::vector<double> values;
    for (int64_t b = 0; b < s.batch; ++b) {
      const auto begin = c.qkv.begin() + (b * s.time + first) * width;
      values.insert(values.end(), begin, begin + count * width);
    }
    const HostTensor qkv(dtype, {piece.tokens(), width}, values), piece_out(dtype, {piece.tokens(), s.out_width()});
    ops::attention_cached(stream, piece_out.tensor(), cache.tensor(), qkv.tensor(), piece, first);
    const std::vector<double> found = piece_out.values();
    for (int64_t b = 0; b < s.batch; ++b) {
      const auto begin = found.begin() + b * count * s.out_width();
      std::copy_n(begin, count * s.out_width(), out.begin() + (b * s.time + first) * s.out_width());
    }
    first += count;
  }
  return out;
}

void check_pieces(DType dtype, double tolerance) {
  for (const auto& [heads, kv_heads, head_dim] : all_or_few<std::tuple<int, int, int>>(
           {{2, 2, 31}, {4, 2, 16}, {3, 1, 64}, {2, 1, 96}, {2, 2, 200}}, {{2, 2, 31}, {2, 1, 96}, {2, 2, 200}})) {
    AttentionCase c({2, 33, heads, kv_heads, head_dim, 1 / std::sqrt(static_cast<double>(head_dim))});
    c.qkv = HostTensor(dtype, {static_cast<int64_t>(c.qkv.size())}, c.qkv).values();
    const std::vector<double> whole = run_attention(DType::kF64, c).out.values();
    check_close(run_in_pieces(dtype, c, {20, 1, 1, 11}), whole, tolerance);
    if (few_shapes()) continue;
    check_close(run_in_pieces(dtype, c, {33}), whole, tolerance);
    check_close(run_in_pieces(dtype, c, std::vector<int64_t>(33, 1)), whole, tolerance);
  }
}

}  // namespace

// Kills: a query that sees later rows, rows written to another token's or sequence's place, values read as keys.
TEST_CASE("tokens fed in pieces attend as the whole sequence does", "[ops][attention]") {
  check_pieces(DType::kF64, 1e-14);
  check_pieces(DType::kF32, 2e-6);
  check_pieces(DType::kBF16, 0x1p-8);
}

// Kills: rows written beyond the end of the cache.
TEST_CASE("a full cache takes no further token", "[ops][attention]") {
  const AttentionShape shape{1, 2, 1, 1, 4, 0.5};
  const HostTensor cache(DType::kF32, {1, 3, 8}), qkv(DType::kF32, {2, 12}), out(DType::kF32, {2, 4});
  Stream stream(cpu_runtime());
  const auto feed = [&](int64_t first) {
    ops::attention_cached(stream, out.tensor(), cache.tensor(), qkv.tensor(), shape, first);
  };
  CHECK_NOTHROW(feed(1));
  CHECK_THROWS_AS(feed(2), RunError);
  CHECK_THROWS_AS(feed(-1), RunError);
}
