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

// Which micro-batch of which step a pass is of, in memory of the device: a pass that is launched again draws anew.
struct PassClock {
  int32_t step = 0;
  int32_t first_sequence = 0;  // index, within the step's global batch, of the micro-batch's first sequence
};

// Element i of a tensor takes draw first_index + i of the key. Counters are global, so ranks and micro-batches draw the
// same numbers. With a clock, which the op reads when it runs, `key` is that of a site and layer, and first_index
// counts from the micro-batch's first sequence, of per_sequence elements each.
struct Draws {
  RandomKey key;
  int64_t first_index = 0;
  const PassClock* clock = nullptr;
  int64_t per_sequence = 0;

  // The same draws without a clock. Where the clock can be read.
  constexpr Draws now() const {
    if (clock == nullptr) return *this;
    return {key_at_step(key, clock->step), first_index + clock->first_sequence * per_sequence, nullptr, 0};
  }
};

// Element i is dropped when its uniform draw is < probability, else scaled by 1 / (1 - probability).
struct Dropout {
  double probability = 0;
  Draws draws = {};

  constexpr Dropout now() const { return {probability, draws.now()}; }
};

struct AdamWOptions {
  double beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
};

// Places of the numbers of an update, [kCount] f64 in memory of the device: what ranks agree on before it.
namespace update {
enum Number : int64_t {
  kLearningRate,
  kStep,           // from 1: for the bias correction
  kLoss,           // mean -log p of the step's tokens, plus the extra losses
  kNorm,           // of the gradient, before clipping
  kApplied,        // 1 when both are finite, else 0: then nothing changes
  kGradientScale,  // clipping
  kCount
};
}  // namespace update

}  // namespace sffn
