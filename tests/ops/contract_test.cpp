#include "core/stream.h"
#include "kernels/ops.h"
#include "support/catch.h"
#include "support/error_of.h"

#include <string>

using namespace sffn;

namespace {

// A tensor that is only looked at from outside: contracts never read values.
Tensor outline(Shape shape, DType dtype = DType::kF32, Device device = Device::cpu()) {
  return Tensor(nullptr, shape, dtype, device);
}

template <class Run>
std::string message_of(Run&& run) {
  return test::error_of(run).what;
}

const AttentionShape kAttention{2, 8, 4, 2, 6, 0.5};  // tokens 16, qkv width 48, out width 24

}  // namespace

// Kills: messages without the op, the tensor, what was found or what was expected.
TEST_CASE("a broken contract names op, tensor, what was found and what was expected", "[ops][contract]") {
  Stream s(cpu_runtime());
  const auto x = [](int64_t rows, int64_t columns, DType dtype = DType::kF32) {
    return outline({rows, columns}, dtype);
  };
  CHECK(message_of([&] { ops::add(s, x(2, 3), x(3, 2)); }) ==
        "add: y is f32 [2, 3] on cpu; expected the shape of x, [3, 2]");
  CHECK(message_of([&] { ops::add(s, Tensor(), x(3, 2)); }) == "add: y is absent; expected a floating dtype on cpu");
  CHECK(message_of([&] { ops::copy(s, x(2, 3), x(2, 2, DType::kBF16)); }) ==
        "copy: y is f32 [2, 3] on cpu; expected 4 elements, as x [2, 2] has");
  CHECK(message_of([&] {
          ops::matmul(s, x(2, 3), x(2, 4), Transpose::kNo, x(5, 3), Transpose::kNo, Tensor(), Accumulate::kNo);
        }) == "matmul: b is f32 [5, 3] on cpu; expected f32 [4, 3] on cpu");
  CHECK(message_of([&] { ops::dropout(s, x(2, 3), Dropout{1.0}); }) ==
        "dropout: dropout probability is 1; expected [0, 1)");
  CHECK(message_of([&] { ops::sum(s, outline({1}), x(2, 3)); }) ==
        "sum: out is f32 [1] on cpu; expected f64 [1] on cpu");
  CHECK(message_of([&] { ops::fill_zero(s, outline({1}, DType::kF32, Device::meta())); }) ==
        "fill_zero: x is f32 [1] on meta; expected a tensor on cpu");
}

// Kills: a check forgotten for one argument: each case breaks exactly one.
TEST_CASE("every op refuses each tensor that does not fit the others", "[ops][contract]") {
  Stream s(cpu_runtime());
  const Tensor none, bad = outline({7}, DType::kI32);
  const Tensor act = outline({4, 6}, DType::kBF16), acc = outline({4, 6}), row = outline({4}), vec = outline({6});
  const Tensor ids = outline({4}, DType::kI32), loss = outline({4});
  const auto refused = [&](const char* start, auto&& run) {
    const std::string error = message_of(run);
    INFO(start << " | " << error);
    CHECK(error.rfind(start, 0) == 0);
  };
  refused("add_norm_forward: sum_out is absent",
          [&] { ops::add_norm_forward(s, none, act, row, row, act, act, vec, vec, 0); });
  refused("add_norm_forward: y ", [&] { ops::add_norm_forward(s, act, acc, row, row, act, act, vec, vec, 0); });
  refused("add_norm_forward: mean ", [&] { ops::add_norm_forward(s, act, act, vec, row, act, act, vec, vec, 0); });
  refused("add_norm_forward: rstd ", [&] { ops::add_norm_forward(s, act, act, row, none, act, act, vec, vec, 0); });
  refused("add_norm_forward: pending ", [&] { ops::add_norm_forward(s, act, act, row, row, act, acc, vec, vec, 0); });
  refused("add_norm_forward: weight ", [&] { ops::add_norm_forward(s, act, act, row, row, act, act, row, vec, 0); });
  refused("add_norm_forward: bias ", [&] { ops::add_norm_forward(s, act, act, row, row, act, act, vec, none, 0); });
  refused("add_norm_forward: bias ", [&] { ops::add_norm_forward(s, act, act, none, row, act, act, vec, vec, 0); });
  refused("add_norm_forward: eps ", [&] { ops::add_norm_forward(s, act, act, row, row, act, act, vec, vec, -1); });
  refused("add_norm_backward: dweight ", [&] { ops::add_norm_backward(s, act, act, vec, act, act, row, row, vec); });
  refused("add_norm_backward: dbias ", [&] { ops::add_norm_backward(s, act, vec, none, act, act, row, row, vec); });
  refused("add_norm_backward: dbias ", [&] { ops::add_norm_backward(s, act, vec, vec, act, act, none, row, vec); });
  refused("add_norm_backward: dy ", [&] { ops::add_norm_backward(s, act, vec, vec, acc, act, row, row, vec); });
  refused("activation_forward: h ", [&] { ops::activation_forward(s, acc, act, none, Activation::kRelu); });
  refused("activation_forward: gate ", [&] { ops::activation_forward(s, act, act, acc, Activation::kRelu); });
  refused("activation_backward: dgate ",
          [&] { ops::activation_backward(s, act, none, act, act, act, Activation::kRelu); });
  refused("activation_backward: dgate ",
          [&] { ops::activation_backward(s, act, act, act, act, none, Activation::kRelu); });
  refused("embedding_forward: ids ", [&] { ops::embedding_forward(s, act, act, bad, none, none); });
  refused("embedding_forward: tokens ", [&] {
    ops::embedding_forward(s, act, outline({9, 5}, DType::kBF16), ids, none, none);
  });
  refused("embedding_forward: positions ", [&] { ops::embedding_forward(s, act, act, ids, act, none); });
  refused("embedding_backward: dtokens ", [&] { ops::embedding_backward(s, act, none, act, ids, none); });
  refused("embedding_backward: positions ", [&] { ops::embedding_backward(s, acc, acc, act, ids, none); });
  refused("column_sum: out ", [&] { ops::column_sum(s, row, act); });
  refused("sum_of_squares: partial ", [&] { ops::sum_of_squares(s, outline({2}, DType::kF64), acc, 8); });
  refused("sum_of_squares: chunk ", [&] { ops::sum_of_squares(s, outline({2}, DType::kF64), acc, 0); });
  refused("random_normal: std ", [&] { ops::random_normal(s, acc, RandomKey{}, 0, -1.0, false); });
  refused("random_normal: first ", [&] { ops::random_normal(s, acc, RandomKey{}, -1, 1.0, false); });
  refused("random_normal: x ", [&] { ops::random_normal(s, bad, RandomKey{}, 0, 1.0, false); });
  refused("cross_entropy: vocab ", [&] { ops::cross_entropy(s, loss, act, ids, 7, 1.0, true); });
  refused("cross_entropy: targets ", [&] { ops::cross_entropy(s, loss, act, bad, 6, 1.0, true); });
  refused("cross_entropy: losses ", [&] { ops::cross_entropy(s, outline({4}, DType::kBF16), act, ids, 6, 1.0, true); });
  refused("matmul: bias ", [&] {
    ops::matmul(s, act, act, Transpose::kNo, outline({6, 6}, DType::kBF16), Transpose::kNo, outline({6}, DType::kBF16),
                Accumulate::kNo);
  });
  refused("matmul: c ", [&] {
    ops::matmul(s, outline({4, 6}, DType::kF64), act, Transpose::kNo, outline({6, 6}, DType::kBF16), Transpose::kYes,
                none, Accumulate::kNo);
  });
}

// Kills: a check forgotten for one argument of a product with its activation, or of a weight gradient.
TEST_CASE("products fused with what surrounds them refuse each tensor that does not fit", "[ops][contract]") {
  Stream s(cpu_runtime());
  const auto act = [](int64_t rows, int64_t columns) { return outline({rows, columns}, DType::kBF16); };
  const Tensor none, x = act(4, 6), w = act(5, 6), z = act(4, 5), wide = outline({4, 5}), bias = outline({5});
  const auto refused = [&](const char* start, auto&& run) {
    const std::string error = message_of(run);
    INFO(start << " | " << error);
    CHECK(error.rfind(start, 0) == 0);
  };
  const auto forward = [&](Tensor h, Tensor kept, const Tensor& weight, const Tensor& b, const Tensor& gate) {
    return [=, &s] { ops::matmul_activation_forward(s, h, kept, x, weight, b, gate, Activation::kGelu); };
  };
  refused("matmul_activation_forward: w ", forward(z, z, act(5, 7), bias, none));
  refused("matmul_activation_forward: h ", forward(x, z, w, bias, none));
  refused("matmul_activation_forward: h ", forward(none, z, w, bias, none));
  refused("matmul_activation_forward: z ", forward(z, wide, w, bias, none));
  refused("matmul_activation_forward: bias ", forward(z, z, w, outline({6}), none));
  refused("matmul_activation_forward: gate ", forward(wide, wide, w, bias, z));
  const auto backward = [&](Tensor dz, Tensor dgate, const Tensor& v, const Tensor& kept, const Tensor& gate) {
    return [=, &s] { ops::matmul_activation_backward(s, dz, dgate, x, v, kept, gate, Activation::kGelu); };
  };
  refused("matmul_activation_backward: v ", backward(z, none, outline({5, 6}), z, none));
  refused("matmul_activation_backward: dz ", backward(x, none, w, z, none));
  refused("matmul_activation_backward: z ", backward(z, none, w, none, none));
  refused("matmul_activation_backward: gate ", backward(z, z, w, z, wide));
  refused("matmul_activation_backward: dgate ", backward(z, none, w, z, z));
  refused("matmul_activation_backward: dgate ", backward(z, z, w, z, none));
  const auto gradient = [&](Tensor dw, Tensor dbias, const Tensor& dy, Transpose tw) {
    return [=, &s] { ops::weight_gradient(s, dw, dbias, dy, x, tw); };
  };
  refused("weight_gradient: x ", gradient(outline({5, 6}), bias, act(3, 5), Transpose::kYes));
  refused("weight_gradient: dw ", gradient(outline({6, 5}), bias, z, Transpose::kYes));
  refused("weight_gradient: dw ", gradient(outline({5, 6}), bias, z, Transpose::kNo));
  refused("weight_gradient: dw ", gradient(act(5, 6), bias, z, Transpose::kYes));
  refused("weight_gradient: dbias ", gradient(outline({5, 6}), outline({6}), z, Transpose::kYes));
}

// Kills: head counts that do not divide, odd head widths, moments of another size.
TEST_CASE("attention, rope and AdamW refuse numbers that cannot be", "[ops][contract]") {
  Stream s(cpu_runtime());
  const Tensor qkv = outline({16, 48}), out = outline({16, 24}), lse = outline({2, 4, 8}), none;
  const Tensor positions = outline({16}, DType::kI32);
  AttentionShape uneven = kAttention;
  uneven.kv_heads = 3;
  CHECK(message_of([&] { ops::attention_forward(s, out, lse, qkv, none, uneven, Dropout{}); }) ==
        "attention_forward: 4 heads cannot share 3 key/value heads; expected a divisor");
  CHECK(message_of([&] {
          ops::attention_forward(s, out, outline({2, 8, 4}), qkv, none, kAttention, Dropout{});
        }) == "attention_forward: lse is f32 [2, 8, 4] on cpu; expected f32 [2, 4, 8] on cpu");
  CHECK(message_of([&] { ops::attention_backward(s, qkv, qkv, out, lse, qkv, none, kAttention, Dropout{}); }) ==
        "attention_backward: dout is f32 [16, 48] on cpu; expected f32 [16, 24] on cpu");
  AttentionShape odd = kAttention;
  odd.head_dim = 3;
  CHECK(message_of([&] { ops::rope_forward(s, qkv, positions, odd, 1e4); }) ==
        "rope_forward: head_dim is 3; expected an even number of at least 2");
  CHECK(message_of([&] { ops::rope_backward(s, qkv, none, kAttention, 1e4); }) ==
        "rope_backward: positions is absent; expected i32 [16] on cpu");
  const Tensor n = outline({5});
  const Tensor numbers = outline({update::kCount}, DType::kF64);
  CHECK(message_of([&] { ops::adamw(s, n, none, n, n, n, n, AdamWOptions{}); }) ==
        "adamw: numbers is f32 [5] on cpu; expected f64 [6] on cpu");
  CHECK(message_of([&] {
          ops::tree_sum(s, n, outline({4, 5}, DType::kF64));
        }) == "tree_sum: out is f32 [5] on cpu; expected f64 [5] on cpu");
  CHECK(message_of([&] { ops::update_numbers(s, numbers, numbers, numbers, 8, 1, 0); }) ==
        "update_numbers: squares is f64 [6] on cpu; expected f64 [1] on cpu");
  CHECK(message_of([&] { ops::adamw(s, n, n, n, n, n, numbers, AdamWOptions{}); }) ==
        "adamw: rounded is f32 [5] on cpu; expected bf16 [5] on cpu");
  CHECK(message_of([&] { ops::adamw(s, n, none, n, outline({4}), n, numbers, AdamWOptions{}); }) ==
        "adamw: v is f32 [4] on cpu; expected f32 [5] on cpu");
}

// Kills: a fused product that is not counted, or as another product than the one it does.
TEST_CASE("on the meta device a fused product counts as the product alone", "[ops][contract]") {
  Stream fused(meta_runtime()), parts(meta_runtime());
  const auto meta = [](Shape shape, DType dtype = DType::kBF16) { return outline(shape, dtype, Device::meta()); };
  constexpr auto kNo = Transpose::kNo, kYes = Transpose::kYes;
  const Tensor x = meta({4, 6}), w = meta({5, 6}), z = meta({4, 5}), bias = meta({5}, DType::kF32), none;
  ops::matmul_activation_forward(fused, z, z, x, w, bias, none, Activation::kGelu);
  ops::matmul_activation_backward(fused, z, none, x, w, z, none, Activation::kGelu);
  ops::weight_gradient(fused, meta({5, 6}, DType::kF32), bias, z, x, kYes);
  ops::weight_gradient(fused, meta({6, 5}, DType::kF32), none, z, x, kNo);
  ops::matmul(parts, z, x, kNo, w, kYes, bias, Accumulate::kNo);
  ops::matmul(parts, z, x, kNo, w, kYes, none, Accumulate::kNo);
  ops::matmul(parts, meta({5, 6}, DType::kF32), z, kYes, x, kNo, none, Accumulate::kYes);
  ops::matmul(parts, meta({6, 5}, DType::kF32), x, kYes, z, kNo, none, Accumulate::kYes);
  CHECK(fused.counter().matmul_flops == 4 * 2 * 4 * 5 * 6);
  CHECK(fused.counter().matmuls == parts.counter().matmuls);
}

// Kills: running a kernel on memory that is not there; M·N·K without the 2; the whole T×T square.
TEST_CASE("on the meta device nothing runs and FLOPs are counted", "[ops][contract]") {
  Stream s(meta_runtime());
  const auto meta = [](Shape shape, DType dtype = DType::kF32) { return outline(shape, dtype, Device::meta()); };
  ops::matmul(s, meta({3, 5}), meta({7, 3}), Transpose::kYes, meta({5, 7}), Transpose::kYes, Tensor(), Accumulate::kNo);
  CHECK(s.counter().matmul_flops == 2 * 3 * 5 * 7);
  const Tensor qkv = meta({16, 48}), out = meta({16, 24}), lse = meta({2, 4, 8});
  ops::attention_forward(s, out, lse, qkv, Tensor(), kAttention, Dropout{});
  CHECK(s.counter().attention_flops == 4 * (8 * 8 / 2) * 6 * 4 * 2);
  ops::attention_backward(s, qkv, out, out, lse, qkv, Tensor(), kAttention, Dropout{});
  CHECK(s.counter().attention_flops == (4 + 10) * (8 * 8 / 2) * 6 * 4 * 2);
  CHECK(s.counter().matmul_flops == 2 * 3 * 5 * 7);
  ops::fill_zero(s, meta({1000}));
  CHECK(message_of([&] { ops::add(s, outline({2}), outline({2})); }) ==
        "add: x is f32 [2] on cpu; expected a floating dtype on meta");
}
