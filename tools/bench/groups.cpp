// The model's own ops, and groups B and C of the reference shapes.
#include "tools/bench/bench.h"
#include "tools/bench/op_rows.h"

#include <cmath>

namespace sffn {
namespace {

constexpr DType kAct = DType::kBF16;

AttentionShape attention_of(int64_t batch, int64_t heads, int64_t time, int64_t head_dim, int64_t kv_heads) {
  return {batch, time, heads, kv_heads, head_dim, 1.0 / std::sqrt(static_cast<double>(head_dim))};
}

// Published for cuDNN 9.19 on an H200, causal: the rate to reach.
struct AttentionCase {
  int64_t batch, heads, time, head_dim;
  double forward_rate, backward_rate;
};
constexpr AttentionCase kAttention[] = {
    {64, 12, 1024, 64, 280e12, 240e12},
    {64, 16, 1024, 64, 280e12, 240e12},
    {8, 16, 8192, 64, 349e12, 300e12},
    {8, 16, 8192, 128, 644e12, 541e12},
};

}  // namespace

Json bench_model_ops(Harness& harness, const Config& config) {
  const ModelConfig& model = config.model;
  const DType act = config.dtype();
  const int64_t tokens = config.train.micro_batch * model.context;
  const int64_t hidden = model.ffn.d_ff > 0 ? model.ffn.d_ff : 4 * model.d_model;
  Json rows = Json::array();
  add_norm_rows(harness, rows, tokens, model.d_model, act, model.norm == Norm::kLayer);
  activation_rows(harness, rows, tokens, hidden, act, model.ffn.activation);
  column_sum_row(harness, rows, tokens, hidden, act);
  cross_entropy_row(harness, rows, std::min<int64_t>(tokens, 512), model.vocab_size, model.padded_vocab(), act);
  attention_rows(harness, rows,
                 attention_of(config.train.micro_batch, model.heads, model.context, model.head_dim, model.kv_heads),
                 act, 0, 0);
  adamw_row(harness, rows, int64_t{1} << 23, act);
  return rows;
}

Json bench_attention(Harness& harness, bool small) {
  Json rows = Json::array();
  for (const AttentionCase& c : kAttention) {
    const int64_t batch = small ? 1 : c.batch, heads = small ? 2 : c.heads, time = small ? 64 : c.time;
    const bool published = harness.peaks() != nullptr && harness.peaks()->name == std::string("h200");
    attention_rows(harness, rows, attention_of(batch, heads, time, c.head_dim, heads), kAct,
                   published ? c.forward_rate : 0, published ? c.backward_rate : 0);
  }
  return rows;
}

// The backbone's width, all tokens of a micro-batch of 64 sequences; a chunk of the head's logits; the parameters of
// GPT-2 124M, and of the backbone with four sparse layers.
Json bench_memory_bound(Harness& harness, bool small) {
  const int64_t tokens = small ? 96 : 65'536, width = small ? 64 : 1024, vocab = small ? 1000 : 50'304;
  Json rows = Json::array();
  add_norm_rows(harness, rows, tokens, width, kAct, true);
  activation_rows(harness, rows, tokens, 4 * width, kAct, Activation::kGelu);
  column_sum_row(harness, rows, tokens, 4 * width, kAct);
  cross_entropy_row(harness, rows, small ? 16 : 8192, vocab, vocab, kAct);
  for (const int64_t parameters : {int64_t{124'475'904}, int64_t{858'000'384}}) {
    adamw_row(harness, rows, small ? parameters / 65'536 : parameters, kAct);
  }
  return rows;
}

}  // namespace sffn
