// Balance of load over the blocks of a layer (methods.md section 4): extra losses on scores or weights, or a bias on
// the choice that is moved after each step.
#pragma once
#include "config/reader.h"
#include "core/params.h"
#include "ffn/selector.h"

#include <cstdint>
#include <string>
#include <vector>

namespace sffn {

enum class BalanceType : uint8_t { kNone, kBias, kSwitch, kEntropy, kCv2 };
// Tokens over which statistics are taken: of one micro-batch of one rank, of each sequence, of the whole step over all
// data-parallel ranks.
enum class BalanceGroup : uint8_t { kMicroBatch, kSequence, kStep };

struct BalanceOptions {
  BalanceType type = BalanceType::kNone;
  double weight = 0;  // of the extra loss
  double rate = 0;    // bias: u
  BalanceGroup group = BalanceGroup::kMicroBatch;
  double z_weight = 0;  // of mean (logsumexp of the scores)², ST-MoE's z-loss (arXiv 2202.08906, equation 5)

  bool has_loss() const { return type >= BalanceType::kSwitch || z_weight > 0; }
  bool of_scores() const { return type == BalanceType::kSwitch || type == BalanceType::kEntropy || z_weight > 0; }
  bool of_weights() const { return type == BalanceType::kCv2; }
};

// The key "balance" of an entry. `type` is the method's default; `gated`: the method weighs blocks by its scores, which
// cv2 needs. Throws UsageError.
BalanceOptions parse_balance(ConfigReader& entry, BalanceType type, bool gated);

// Groups of the N tokens of one pass, for ops that take groups.
int64_t balance_groups(BalanceGroup, int64_t tokens, int64_t time);

class Balance {
 public:
  struct Saved {
    Tensor dsums;  // [S, B] acc: gradient of the group sums of softmax(scores), or of the weights for cv2
    Tensor lse;    // [N] acc, with a z-loss
  };
  // Registers layers.LAYER.ffn.balance_bias [B] for type bias.
  Balance(const BalanceOptions&, ParamStore&, int64_t layer, int64_t blocks);

  const BalanceOptions& options() const { return options_; }
  Tensor bias() const { return bias_ != nullptr ? bias_->value : Tensor(); }  // [B] acc, or absent

  // Adds the extra loss to ctx.extra_losses; nothing without ctx.gradients or a loss. scores [N, B] acc; weights [N, b]
  // acc for cv2; blocks are the choices, dropped ones included.
  void forward(Context&, const Tensor& scores, const Tensor& weights, const Tensor& blocks, int64_t time, Saved&) const;
  // dscores [N, B] += the gradient of losses of scores
  void backward_scores(Context&, Tensor dscores, const Tensor& scores, const Saved&) const;
  // dweights [N, b] += the gradient of cv2
  void backward_weights(Context&, Tensor dweights, const Tensor& blocks, const Saved&) const;

  // bias += rate·sign(mean load - load), where the update took place
  void after_step(Stream&, const Tensor& load, const Tensor& numbers);
  bool needs_whole_step() const { return options_.group == BalanceGroup::kStep && options_.has_loss(); }

 private:
  BalanceOptions options_;
  int64_t layer_, blocks_;
  State* bias_ = nullptr;
};

}  // namespace sffn
