// Plain types that op signatures use.
#pragma once
#include "core/random.h"

#include <array>
#include <cstdint>

namespace sffn {

enum class Activation : uint8_t { kRelu, kGelu, kGeluErf, kSilu };  // relu'(0) = 0; kGelu is the tanh form
inline constexpr std::array kNearZero = {0.001, 0.01, 0.1};         // bounds of |f(z)| that count_near_zero counts
enum class Transpose : uint8_t { kNo, kYes };
enum class Accumulate : uint8_t { kNo, kYes };  // kYes: the output is added to

// Rows of one head group: qkv [B·T, (H + 2·H_kv)·d_h] holds all query heads, then all key heads, then all value heads.
// Query head h reads key/value head h / (H / H_kv).
struct AttentionShape {
  int64_t batch = 0, time = 0, heads = 0, kv_heads = 0, head_dim = 0;
  double scale = 0;  // score = scale · q·k, normally d_h^-1/2
  int64_t tokens() const { return batch * time; }
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
  int64_t out_width() const { return heads * head_dim; }
};

inline constexpr int kMostCudaHeadDim = 256;  // what the CUDA backend has room for; the CPU's has no limit

// Element i of the tensor is dropped when random_uniform(key, first_index + i) < probability, else scaled by
// 1 / (1 - probability). Counters are global, so ranks and micro-batches draw the same numbers.
struct Dropout {
  double probability = 0;
  RandomKey key;
  int64_t first_index = 0;
};

struct AdamWStep {
  double learning_rate = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  int64_t step = 1;           // from 1: for the bias correction
  double gradient_scale = 1;  // clipping
};

}  // namespace sffn
