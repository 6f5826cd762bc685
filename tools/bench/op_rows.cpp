#include "tools/bench/op_rows.h"

#include "kernels/ops.h"
#include "nn/host_values.h"

namespace sffn {
namespace {

std::string shape_of(std::initializer_list<int64_t> sizes, DType act) {
  std::string text;
  for (const int64_t size : sizes) text += cat(text.empty() ? "" : "x", size);
  return cat(text, " ", name_of(act));
}

double size_in(DType dtype, int64_t count) { return static_cast<double>(count) * static_cast<double>(size_of(dtype)); }

}  // namespace

void add_norm_rows(Harness& harness, Json& rows, int64_t tokens, int64_t width, DType act, bool layer_norm) {
  const DType acc = accumulate_type(act);
  const Shape x{tokens, width};
  const std::string shape = shape_of({tokens, width}, act);
  const auto norm = [&](Workspace& memory, const Shape& like) {
    return layer_norm ? memory.zero(acc, like) : Tensor();
  };
  const double bytes = 4 * size_in(act, tokens * width);
  const double forward = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor sum = memory.normal(act, x), pending = memory.normal(act, x), out = memory.zero(act, x);
    const Tensor y = memory.zero(act, x), mean = norm(memory, {tokens}), rstd = memory.zero(acc, {tokens});
    const Tensor weight = memory.normal(acc, {width}), bias = norm(memory, {width});
    return [=, &harness] {
      ops::add_norm_forward(harness.stream(), out, y, mean, rstd, sum, pending, weight, bias, 1e-5);
    };
  });
  rows.push_back(harness.to_json({.name = "add_norm_forward", .shape = shape, .seconds = forward, .bytes = bytes}));
  const double backward = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor sum = memory.normal(act, x), dy = memory.normal(act, x), dh = memory.normal(act, x);
    const Tensor mean = norm(memory, {tokens}), rstd = memory.normal(acc, {tokens});
    const Tensor weight = memory.normal(acc, {width}), dweight = memory.zero(acc, {width}),
                 dbias = norm(memory, {width});
    return [=, &harness] { ops::add_norm_backward(harness.stream(), dh, dweight, dbias, dy, sum, mean, rstd, weight); };
  });
  rows.push_back(harness.to_json({.name = "add_norm_backward", .shape = shape, .seconds = backward, .bytes = bytes}));
}

void activation_rows(Harness& harness, Json& rows, int64_t tokens, int64_t width, DType act, Activation f) {
  const Shape x{tokens, width};
  const std::string shape = shape_of({tokens, width}, act);
  const double each = size_in(act, tokens * width);
  const double forward = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor z = memory.normal(act, x), h = memory.zero(act, x);
    return [=, &harness] { ops::activation_forward(harness.stream(), h, z, Tensor(), f); };
  });
  rows.push_back(
      harness.to_json({.name = "activation_forward", .shape = shape, .seconds = forward, .bytes = 2 * each}));
  const double backward = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor z = memory.normal(act, x), dh = memory.normal(act, x), dz = memory.zero(act, x);
    return [=, &harness] { ops::activation_backward(harness.stream(), dz, Tensor(), dh, z, Tensor(), f); };
  });
  rows.push_back(
      harness.to_json({.name = "activation_backward", .shape = shape, .seconds = backward, .bytes = 3 * each}));
}

void column_sum_row(Harness& harness, Json& rows, int64_t tokens, int64_t width, DType act) {
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor x = memory.normal(act, {tokens, width}), out = memory.zero(accumulate_type(act), {width});
    return [=, &harness] { ops::column_sum(harness.stream(), out, x); };
  });
  rows.push_back(harness.to_json({.name = "column_sum",
                                  .shape = shape_of({tokens, width}, act),
                                  .seconds = seconds,
                                  .bytes = size_in(act, tokens * width)}));
}

void cross_entropy_row(Harness& harness, Json& rows, int64_t tokens, int64_t vocab, int64_t padded, DType act) {
  std::vector<int32_t> wanted;
  for (int64_t n = 0; n < tokens; ++n) wanted.push_back(static_cast<int32_t>(n * 7919 % vocab));
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor logits = memory.normal(act, {tokens, padded}), losses = memory.zero(accumulate_type(act), {tokens});
    const Tensor targets = memory.indices(wanted);
    return [=, &harness] { ops::cross_entropy(harness.stream(), losses, logits, targets, vocab, 1.0, true); };
  });
  rows.push_back(harness.to_json({.name = "cross_entropy",
                                  .shape = shape_of({tokens, vocab}, act),
                                  .seconds = seconds,
                                  .bytes = 2 * size_in(act, tokens * padded)}));
}

void adamw_row(Harness& harness, Json& rows, int64_t parameters, DType act) {
  const DType acc = accumulate_type(act);
  const bool rounds = act != acc;
  const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  std::vector<double> numbers(update::kCount, 1);
  numbers[update::kLearningRate] = 1e-4;
  const double seconds = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor master = memory.normal(acc, {parameters}), grad = memory.normal(acc, {parameters});
    const Tensor m = memory.zero(acc, {parameters}), v = memory.zero(acc, {parameters});
    const Tensor rounded = rounds ? memory.zero(act, {parameters}) : Tensor();
    const Tensor of_step = memory.zero(DType::kF64, {update::kCount});
    write_values(harness.stream(), of_step, numbers);
    return [=, &harness] { ops::adamw(harness.stream(), master, rounded, m, v, grad, of_step, options); };
  });
  rows.push_back(harness.to_json({.name = "adamw",
                                  .shape = shape_of({parameters}, act),
                                  .seconds = seconds,
                                  .bytes = 7 * size_in(acc, parameters) + (rounds ? size_in(act, parameters) : 0)}));
}

// The forward pass multiplies twice per score (q·k, p·v), the backward pass five times; causal: half the square.
void attention_rows(Harness& harness, Json& rows, const AttentionShape& s, DType act, double forward_rate,
                    double backward_rate) {
  const int64_t tokens = s.tokens();
  const DType acc = accumulate_type(act);
  const std::string shape = shape_of({s.batch, s.heads, s.time, s.head_dim}, act);
  const double product = static_cast<double>(tokens * s.time) * static_cast<double>(s.out_width());
  const double qkv_bytes = size_in(act, tokens * s.qkv_width()), out_bytes = size_in(act, tokens * s.out_width());
  const double lse_bytes = size_in(acc, tokens * s.heads);
  const auto row = [&](const char* name, double seconds, double bytes, double flops, double rate) {
    rows.push_back(harness.to_json(
        {.name = name,
         .shape = shape,
         .seconds = seconds,
         .bytes = bytes,
         .flops = flops,
         .tensor_cores = act == DType::kBF16,
         .predicted_seconds = rate > 0 ? std::optional<double>(flops / rate) : std::optional<double>()}));
  };
  const auto lse_of = [&](Workspace& memory) { return memory.zero(acc, {s.batch, s.heads, s.time}); };
  const double forward = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor qkv = memory.normal(act, {tokens, s.qkv_width()}), out = memory.zero(act, {tokens, s.out_width()});
    const Tensor lse = lse_of(memory);
    return [=, &harness] { ops::attention_forward(harness.stream(), out, lse, qkv, Tensor(), s, Dropout{}); };
  });
  row("attention_forward", forward, qkv_bytes + out_bytes + lse_bytes, 2 * product, forward_rate);
  const double backward = harness.median_seconds([&](Workspace& memory) -> Call {
    const Tensor qkv = memory.normal(act, {tokens, s.qkv_width()}), dqkv = memory.zero(act, {tokens, s.qkv_width()});
    const Tensor out = memory.zero(act, {tokens, s.out_width()}), dout = memory.normal(act, {tokens, s.out_width()});
    const Tensor lse = lse_of(memory);
    ops::attention_forward(harness.stream(), out, lse, qkv, Tensor(), s, Dropout{});
    return
        [=, &harness] { ops::attention_backward(harness.stream(), dqkv, dout, out, lse, qkv, Tensor(), s, Dropout{}); };
  });
  row("attention_backward", backward, 2 * qkv_bytes + 2 * out_bytes + lse_bytes, 5 * product, backward_rate);
}

}  // namespace sffn
