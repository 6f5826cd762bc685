#include "model/transformer.h"

#include "ffn/registry.h"
#include "kernels/ops.h"
#include "model/block.h"
#include "model/embedding.h"
#include "model/loss_head.h"
#include "nn/host_values.h"
#include "nn/init.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <numeric>
#include <utility>

namespace sffn {

struct Transformer::Impl {
  Impl(const Config& config, const ExpertShare& share, int64_t logits_bytes);

  // The residual stream after all blocks; nothing is kept for a backward pass.
  Residual run_discarding(Context&, const BatchTensors&, Inspection*) const;
  Residual run_keeping(Context&, const BatchTensors&, std::vector<Block::Saved>&, Inspection*) const;

  Config config;
  ParamStore params, blocks_of_rank;
  std::vector<ParamStore*> stores;
  Embedding embedding;
  std::deque<Block> blocks;
  std::vector<FfnLayer*> ffn_layers;
  std::unique_ptr<LossHead> head;
};

namespace {

Residual allocate_stream(Context& ctx, const Tensor& like) {
  Residual out;
  out.sum = ctx.saved.allocate(like.shape(), like.dtype(), "residual sum");
  out.pending = ctx.saved.allocate(like.shape(), like.dtype(), "residual pending");
  return out;
}

void inspect_hidden(Context& ctx, const Residual& h, Inspection* inspection) {
  if (inspection == nullptr || !inspection->hidden) return;
  std::vector<double> value = read_values(ctx.stream, h.sum);
  const std::vector<double> pending = read_values(ctx.stream, h.pending);
  for (size_t i = 0; i < value.size(); ++i) value[i] += pending[i];
  inspection->hidden_out.push_back(std::move(value));
}

void clear(Inspection* inspection) {
  if (inspection == nullptr) return;
  inspection->logits_out.clear();
  inspection->hidden_out.clear();
  inspection->choices.clear();
}

void read_extra_losses(Stream& stream, const Tensor& extra, LossSum& loss, Inspection* inspection) {
  if (stream.is_meta()) return;
  loss.extra_by_layer = read_values(stream, extra);
  for (const double layer : loss.extra_by_layer) loss.extra_loss += layer;
  if (inspection == nullptr) return;
  inspection->extra_loss = loss.extra_loss;
  if (extra.dtype() != DType::kC128) return;
  std::vector<std::complex<double>> values(loss.extra_by_layer.size());
  stream.copy_to_host(values.data(), extra);
  stream.synchronize();
  inspection->extra_loss = std::accumulate(values.begin(), values.end(), std::complex<double>());
}

// Tokens [B, n] behind those of the cache; nothing is scored.
Batch continuation(const KeyValueCache& cache, const std::vector<int32_t>& tokens) {
  const int64_t time = static_cast<int64_t>(tokens.size()) / cache.batch();
  Batch batch{
      .batch = cache.batch(), .time = time, .inputs = tokens, .targets = {}, .positions = {}, .segment_start = {}};
  batch.targets.assign(tokens.size(), -1);
  for (size_t n = 0; n < tokens.size(); ++n) {
    batch.positions.push_back(static_cast<int32_t>(cache.length() + static_cast<int64_t>(n) % time));
  }
  return batch;
}

// The draws are f32 whatever the dtype, so that every precision starts from the same weights.
void draw_normal(Stream& stream, const Param& param, uint64_t seed) {
  const Init& init = param.spec.init;
  const Tensor rows = param.value.slice(0, param.spec.held_rows());
  const Shape shape = rows.shape();
  const RandomKey key = random_key(seed, param.spec.name);
  const auto draw = [&](const Tensor& values) {
    const Tensor flat = values.view({values.numel()});
    for (const ElementRun& run : param.spec.runs()) {
      ops::random_normal(stream, flat.slice(run.at, run.count), key, run.first, init.value,
                         init.kind == Init::Kind::kTruncatedNormal);
    }
  };
  if (rows.dtype() == DType::kF32 && !init.equal_rows) return draw(rows);
  const Buffer draws(stream.runtime(), shape, DType::kF32);
  const Tensor drawn = draws.tensor(shape, DType::kF32);
  draw(drawn);
  if (init.equal_rows) {
    SFFN_CHECK(shape == param.spec.shape, param.spec.name, ": rows of equal norm are drawn together");
    std::vector<double> values = read_values(stream, drawn);
    equalise_row_norms(values, shape[1]);
    write_values(stream, drawn, values);
  }
  ops::copy(stream, rows, drawn);
  stream.synchronize();
}

void initialise_store(Stream& stream, ParamStore& store, uint64_t seed) {
  ops::fill_zero(stream, store.flat_matrices());
  ops::fill_zero(stream, store.flat_vectors());
  for (const Param& param : store.all()) {
    const Init& init = param.spec.init;
    if (init.kind != Init::Kind::kConstant) {
      draw_normal(stream, param, seed);
    } else if (init.value != 0) {
      const std::vector<double> values(static_cast<size_t>(param.spec.held_elements()), init.value);
      write_values(stream, param.value.slice(0, param.spec.held_rows()), values);
    }
  }
}

// UsageError where a layer's blocks cannot be shared alike.
void check_share(const std::vector<FfnEntry>& ffn, int64_t ranks) {
  bool any = false;
  for (size_t layer = 0; layer < ffn.size(); ++layer) {
    const BlockShape* shape = ffn[layer].options->block_shape();
    if (shape == nullptr) continue;
    any = true;
    const int64_t blocks = shape->shared_blocks();
    if (blocks % ranks != 0) {
      throw UsageError("parallel.expert", cat("is ", ranks, ", which does not divide the ", blocks, " blocks of ",
                                              shape->sub_layers > 1 ? "every sub-layer of " : "", "layer ", layer,
                                              blocks < ranks ? ": there are more expert ranks than blocks" : ""));
    }
  }
  if (!any) throw UsageError("parallel.expert", cat("is ", ranks, ", but no layer has blocks; 1 is expected"));
}

}  // namespace

Transformer::Impl::Impl(const Config& config, const ExpertShare& share, int64_t logits_bytes)
    : config(config), stores{&params}, embedding(params, config.model) {
  const std::vector<FfnEntry> ffn = resolve_ffn(config.model, "config");
  if (share.spread()) {
    check_share(ffn, share.ranks);
    stores.push_back(&blocks_of_rank);
  }
  for (int64_t layer = 0; layer < config.model.layers; ++layer) {
    const FfnBuild build{.params = params,
                         .model = config.model,
                         .recompute = config.train.recompute,
                         .layer = layer,
                         .share = share,
                         .blocks = &blocks_of_rank};
    blocks.emplace_back(build, config, *ffn[static_cast<size_t>(layer)].options);
    ffn_layers.push_back(&blocks.back().ffn());
  }
  head = std::make_unique<LossHead>(params, config.model, embedding.tokens(), logits_bytes);
}

Residual Transformer::Impl::run_discarding(Context& ctx, const BatchTensors& batch, Inspection* inspection) const {
  Residual h{.sum = embedding.forward(ctx, batch), .pending = {}};
  const Residual stream = allocate_stream(ctx, h.sum);
  for (const Block& block : blocks) {
    block.forward_discarding(ctx, batch, h, stream);
    h = stream;
    inspect_hidden(ctx, h, inspection);
  }
  return h;
}

// Under recompute block, each block's pending branch is kept, which becomes the sum' of the next block, its input; the
// sums share one tensor.
Residual Transformer::Impl::run_keeping(Context& ctx, const BatchTensors& batch, std::vector<Block::Saved>& saved,
                                        Inspection* inspection) const {
  const bool recompute = config.train.recompute == Recompute::kBlock;
  Residual h{.sum = embedding.forward(ctx, batch), .pending = {}};
  const Tensor sum = recompute ? ctx.saved.allocate(h.sum.shape(), h.sum.dtype(), "residual sum") : Tensor();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const NamedRange range(ctx.stream, "block forward", static_cast<int64_t>(i));
    if (recompute) {
      saved[i].input = h.pending.defined() ? h.pending : h.sum;
      const Residual out{.sum = sum, .pending = ctx.saved.allocate(sum.shape(), sum.dtype(), "block out")};
      blocks[i].forward_discarding(ctx, batch, h, out);
      h = out;
    } else {
      h = blocks[i].forward(ctx, batch, h, saved[i]);
    }
    inspect_hidden(ctx, h, inspection);
  }
  return h;
}

Transformer::Transformer(const Config& config, const ExpertShare& share)
    : impl_(std::make_unique<Impl>(config, share, LossHead::kLogitsBytes)) {}
Transformer::Transformer(const Config& config, int64_t logits_bytes)
    : impl_(std::make_unique<Impl>(config, ExpertShare{}, logits_bytes)) {}
Transformer::~Transformer() = default;

ParamStore& Transformer::params() { return impl_->params; }
const ParamStore& Transformer::params() const { return impl_->params; }
const std::vector<ParamStore*>& Transformer::stores() { return impl_->stores; }

void Transformer::allocate(DeviceRuntime& runtime) {
  const int64_t head_dim = impl_->config.model.head_dim;
  if (runtime.device().kind == Device::Kind::kCuda && head_dim > kMostCudaHeadDim) {
    throw UsageError("model.head_dim", cat("is ", head_dim, " on the backend cuda; at most ", kMostCudaHeadDim,
                                           ", or the backend cpu, is expected"));
  }
  for (ParamStore* store : impl_->stores) store->allocate(runtime, impl_->config.dtype());
  impl_->embedding.allocate(runtime, impl_->config.dtype());
}

size_t Transformer::constant_bytes() const { return impl_->embedding.constant_bytes() + impl_->params.state_bytes(); }
const std::vector<FfnLayer*>& Transformer::ffn_layers() const { return impl_->ffn_layers; }

void Transformer::initialise(Stream& stream, uint64_t seed, const TokenCounts& token_counts) {
  for (ParamStore* store : impl_->stores) initialise_store(stream, *store, seed);
  for (FfnLayer* layer : impl_->ffn_layers) layer->initialise_state(stream, token_counts);
}

LossSum Transformer::forward_backward(Context& ctx, const Batch& batch, double loss_scale, Inspection* inspection) {
  const ArenaScope saved_scope(ctx.saved);
  const BatchTensors tensors = upload(ctx, batch, BatchLimits(impl_->config.model));
  const DType acc = accumulate_type(impl_->config.dtype());
  PassLosses losses;
  losses.nll = ctx.saved.allocate({1}, sum_type(acc), "sum of losses");
  losses.extra = ctx.saved.allocate({static_cast<int64_t>(impl_->blocks.size())}, acc, "extra losses");
  forward_backward(ctx, tensors, loss_scale, losses, inspection);
  LossSum loss = read_loss(ctx.stream, losses.nll, tensors.scored, inspection);
  read_extra_losses(ctx.stream, losses.extra, loss, inspection);
  return loss;
}

void Transformer::forward_backward(Context& ctx, const BatchTensors& batch, double loss_scale, const PassLosses& losses,
                                   Inspection* inspection) {
  const ArenaScope saved_scope(ctx.saved), scope(ctx.scratch);
  clear(inspection);
  Context pass = ctx;
  pass.gradients = true;
  pass.extra_loss_scale = loss_scale * static_cast<double>(batch.tokens());
  pass.extra_losses = losses.extra;
  ops::fill_zero(ctx.stream, losses.extra);
  if (inspection != nullptr) pass.choices = &inspection->choices;
  std::vector<Block::Saved> saved(impl_->blocks.size());
  const Residual h = impl_->run_keeping(pass, batch, saved, inspection);
  const Tensor dh = ctx.scratch.allocate(h.sum.shape(), h.sum.dtype(), "dh");
  impl_->head->forward_backward(pass, batch, h, dh, losses.nll, loss_scale, inspection);
  for (size_t i = impl_->blocks.size(); i-- > 0;) {
    const NamedRange range(ctx.stream, "block backward", static_cast<int64_t>(i));
    impl_->blocks[i].backward(pass, batch, saved[i], dh);
  }
  impl_->embedding.backward(pass, batch, dh);
}

LossSum Transformer::evaluate(Context& ctx, const Batch& batch, std::vector<float>* token_nll, Inspection* inspection) {
  const ArenaScope saved_scope(ctx.saved), scope(ctx.scratch);
  clear(inspection);
  Context evaluation = ctx;
  evaluation.training = evaluation.gradients = false;
  if (inspection != nullptr) evaluation.choices = &inspection->choices;
  const BatchTensors tensors = upload(evaluation, batch, BatchLimits(impl_->config.model));
  const Residual h = impl_->run_discarding(evaluation, tensors, inspection);
  return impl_->head->evaluate(evaluation, tensors, h, token_nll, inspection);
}

std::vector<float> Transformer::decode(Context& ctx, KeyValueCache& cache, const std::vector<int32_t>& tokens) {
  const ArenaScope saved_scope(ctx.saved), scope(ctx.scratch);
  Context evaluation = ctx;
  evaluation.training = evaluation.gradients = false;
  const Batch batch = continuation(cache, tokens);
  const BatchTensors tensors = upload(evaluation, batch, BatchLimits(impl_->config.model));
  SFFN_CHECK(cache.length() + batch.time <= cache.capacity(), "a cache of ", cache.capacity(), " tokens holds ",
             cache.length(), " and gets ", batch.time, " more");
  Residual h{.sum = impl_->embedding.forward(evaluation, tensors), .pending = {}};
  const Residual stream = allocate_stream(evaluation, h.sum);
  for (size_t i = 0; i < impl_->blocks.size(); ++i) {
    const Tensor layer = cache.layer(static_cast<int64_t>(i));
    impl_->blocks[i].forward_cached(evaluation, tensors, h, stream, layer, cache.length());
    h = stream;
  }
  cache.advance(batch.time);
  return impl_->head->last_logits(evaluation, tensors, h);
}

}  // namespace sffn
