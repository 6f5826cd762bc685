#include "train/engine.h"

#include "core/hash.h"
#include "kernels/ops.h"
#include "train/counters.h"

#include <chrono>
#include <cmath>

namespace sffn {
namespace {

class Stopwatch {
 public:
  // Milliseconds since construction or the last call.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
    return ms;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Of [micro-batch, layer] the mean over micro-batches, summed in the tree, so that it does not depend on ranks.
std::vector<double> mean_over_leaves(const std::vector<double>& values, size_t leaves) {
  const size_t layers = values.size() / leaves;
  std::vector<double> means, of_layer(leaves);
  for (size_t layer = 0; layer < layers; ++layer) {
    for (size_t leaf = 0; leaf < leaves; ++leaf) of_layer[leaf] = values[leaf * layers + layer];
    means.push_back(tree_sum(of_layer) / static_cast<double>(leaves));
  }
  return means;
}

std::vector<LeafRange> leaves_of_ranks(const Config& config, int ranks) {
  const int64_t leaves = config.micro_batches_per_step();
  if (leaves < ranks) {
    throw UsageError("train.tokens_per_step", cat("makes ", leaves, " micro-batches a step for ", ranks,
                                                  " ranks; each rank needs at least one: raise tokens_per_step, lower ",
                                                  "micro_batch or use fewer ranks"));
  }
  return split_leaves(leaves, ranks);
}

}  // namespace

Engine::Engine(const Config& config, const Parallel& parallel, DeviceRuntime& runtime, ArenaSizes arenas)
    : config_(config),
      parallel_(parallel),
      runtime_(runtime),
      stream_(runtime),
      model_(config),
      saved_(runtime, "saved", arenas.saved),
      scratch_(runtime, "scratch", arenas.scratch) {
  model_.allocate(runtime);
  ParamStore& params = model_.params();
  const int rank = parallel.data->rank(), ranks = parallel.data->size();

  if (config.parallel.zero == 1)
    ranges_ = partition_flat(params, ranks);
  else
    ranges_.assign(ranks, FlatRange{0, params.flat_size()});
  for (size_t layer = 0; layer < model_.ffn_layers().size(); ++layer) {
    if (model_.ffn_layers()[layer]->needs_whole_step() && config.micro_batches_per_step() > ranks) {
      throw UsageError(cat("model.sparse_ffn: balance.group of layer ", layer),
                       cat("is step, but ", config.micro_batches_per_step(), " micro-batches on ", ranks,
                           " ranks accumulate gradients; raise micro_batch or the ranks, or use group micro_batch"));
    }
  }
  optimizer_ = std::make_unique<AdamW>(config.optimizer, params, ranges_[rank], runtime);

  tree_ = std::make_unique<SumTree>(leaves_of_ranks(config, ranks), config.train.deterministic);
  const int64_t buffers = tree_->buffers(rank);
  const DType type = accumulate_type(params.dtype());
  gradients_ = Buffer(runtime, {buffers, params.flat_size()}, type);
  const Tensor all = gradients_.tensor({buffers, params.flat_size()}, type);
  std::vector<Tensor> flat;
  for (int64_t i = 0; i < buffers; ++i) flat.push_back(all.slice(i, 1).view({params.flat_size()}));
  fold_ = std::make_unique<TreeFold>(*tree_, rank, std::move(flat));
}

Measurement Engine::measure(const Config& config, int rank, int ranks) {
  constexpr size_t kAddressSpace = size_t{1} << 42;
  Measurement found;
  const auto planned = make_planned_communicator(rank, ranks, found.traffic);
  const auto alone = make_self_communicator();
  Engine engine(config, {planned.get(), planned.get(), alone.get()}, meta_runtime(), {kAddressSpace, kAddressSpace});
  const int64_t time = config.model.context;
  const BatchOf empty_batch = [&](int64_t, int64_t count) {
    Batch batch;
    batch.batch = count;
    batch.time = time;
    batch.inputs.resize(count * time);
    batch.targets = batch.positions = batch.inputs;
    if (config.data.document_mask) batch.segment_start = batch.inputs;
    return batch;
  };
  engine.step(1, empty_batch, 0, [](std::string_view) {});
  found.work = engine.stream_.counter();
  engine.evaluate(empty_batch(0, config.train.micro_batch));
  found.arenas = {engine.saved_.high_water(), engine.scratch_.high_water()};
  found.memory = engine.memory_with(found.arenas);
  return found;
}

void Engine::initialise(const TokenCounts& token_counts) {
  model_.initialise(stream_, config_.train.seed, token_counts);
  optimizer_->adopt_values(stream_);
}

Context Engine::context(int64_t step, int64_t first_sequence) {
  Context ctx{stream_, saved_, scratch_, parallel_, config_.train.seed, step, first_sequence, true};
  ctx.count_choices = true;
  return ctx;
}

Engine::LeafLosses Engine::accumulate_gradients(int64_t step, const BatchOf& batch_of, const Progress& progress) {
  const double loss_scale = 1.0 / static_cast<double>(config_.train.tokens_per_step);
  const LeafRange leaves = tree_->share(parallel_.data->rank());
  LeafLosses losses;
  fold_->start();
  clear_counters(model_, stream_);
  for (int64_t leaf = leaves.first; leaf < leaves.last; ++leaf) {
    const NamedRange range(stream_, "micro-step", leaf - leaves.first);
    const int64_t first_sequence = leaf * config_.train.micro_batch;
    progress("data");
    const Batch batch = batch_of(first_sequence, config_.train.micro_batch);
    progress("forward and backward");
    model_.params().use_gradients(fold_->next(stream_));
    saved_.reset();
    Context ctx = context(step, first_sequence);
    LossSum loss = model_.forward_backward(ctx, batch, loss_scale);
    loss.extra_by_layer.resize(static_cast<size_t>(config_.model.layers));  // none on the meta device
    losses.nll.push_back(loss.nll);
    losses.extra.insert(losses.extra.end(), loss.extra_by_layer.begin(), loss.extra_by_layer.end());
    fold_->push(stream_);
  }
  return losses;
}

// This rank's range of the summed gradient, in the memory of its first partial sum.
Tensor Engine::exchange_gradients() {
  const NamedRange name(stream_, "gradient exchange");
  const std::vector<Tensor> partials = fold_->partials();
  const FlatRange range = optimizer_->range();
  const Tensor grad = partials[0].slice(range.offset, range.count);
  tree_reduce_scatter(stream_, *parallel_.data, scratch_, *tree_, grad, partials, ranges_);
  return grad;
}

StepNumbers Engine::step(int64_t step, const BatchOf& batch_of, double learning_rate, const Progress& progress) {
  StepNumbers numbers;
  Stopwatch watch;
  const LeafLosses mine = accumulate_gradients(step, batch_of, progress);
  numbers.forward_backward_ms = watch.lap();

  progress(kGradientExchange);
  Communicator& data = *parallel_.data;
  const Tensor grad = exchange_gradients();
  const std::vector<double> nll = data.gather_lists(mine.nll);
  const std::vector<double> extra = mean_over_leaves(data.gather_lists(mine.extra), nll.size());
  numbers.loss = tree_sum(nll) / static_cast<double>(config_.train.tokens_per_step);
  for (const double layer : extra) numbers.loss += layer;
  std::vector<double> squares = chunk_square_sums(stream_, scratch_, model_.params(), optimizer_->range(), grad);
  if (config_.parallel.zero == 1) squares = data.gather_lists(squares);
  numbers.gradient_norm = std::sqrt(tree_sum(squares));
  numbers.finite = std::isfinite(numbers.loss) && std::isfinite(numbers.gradient_norm);
  finish_layers(extra, numbers);
  numbers.communication_ms = watch.lap();
  if (!numbers.finite) return numbers;

  progress("optimizer");
  const double clip = config_.optimizer.clip;
  const double scale = clip > 0 && numbers.gradient_norm > clip ? clip / numbers.gradient_norm : 1.0;
  {
    const NamedRange name(stream_, "optimizer");
    optimizer_->update(stream_, grad, learning_rate, scale, step);
  }
  numbers.optimizer_ms = watch.lap();
  progress(kWeightExchange);
  if (config_.parallel.zero == 1) {
    const NamedRange name(stream_, "weight exchange");
    gather_values(stream_, data, model_.params(), ranges_);
  }
  numbers.communication_ms += watch.lap();
  return numbers;
}

void Engine::finish_layers(const std::vector<double>& extra_losses, StepNumbers& numbers) {
  const std::vector<std::vector<double>> counts = gather_counters(model_, stream_, *parallel_.data);
  numbers.block_load = block_load(model_, counts);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i].empty()) continue;
    FfnLayer& layer = *model_.ffn_layers()[i];
    Json statistics = layer.statistics(counts[i]);
    statistics["balance_loss"] = extra_losses[i];
    numbers.ffn[cat(i)] = std::move(statistics);
    if (numbers.finite) layer.after_step(stream_, counts[i]);
  }
}

std::vector<float> Engine::evaluate(const Batch& batch) {
  saved_.reset();
  Context ctx = context(0, 0);
  ctx.training = ctx.count_choices = false;
  std::vector<float> token_nll;
  model_.evaluate(ctx, batch, stream_.is_meta() ? nullptr : &token_nll);
  return token_nll;
}

void Engine::publish_values() {
  for (const AdamW::Piece& piece : optimizer_->pieces()) {
    if (piece.rounded.defined()) ops::copy(stream_, piece.rounded, piece.master);
  }
  if (config_.parallel.zero == 1) gather_values(stream_, *parallel_.data, model_.params(), ranges_);
}

std::string Engine::state_hash() {
  std::vector<Hash128> hashes;
  std::vector<std::byte> host;
  const auto add = [&](const Tensor& piece) {
    for (int64_t at = 0; at < piece.numel(); at += ParamStore::kChunk) {
      const Tensor chunk = piece.slice(at, std::min(ParamStore::kChunk, piece.numel() - at));
      host.resize(chunk.bytes());
      stream_.copy_to_host(host.data(), chunk);
      stream_.synchronize();
      hashes.push_back(hash128(host.data(), host.size()));
    }
  };
  for (const Tensor AdamW::Piece::*state : {&AdamW::Piece::master, &AdamW::Piece::m, &AdamW::Piece::v}) {
    std::vector<Hash128> all = std::move(hashes);
    hashes.clear();
    for (const AdamW::Piece& piece : optimizer_->pieces()) add(piece.*state);
    if (config_.parallel.zero == 1) hashes = parallel_.data->gather_lists(hashes);
    hashes.insert(hashes.begin(), all.begin(), all.end());
  }
  for (const State& state : model_.params().states()) {
    if (state.spec.saved) add(state.value);
  }
  return hash128(hashes.data(), hashes.size() * sizeof(Hash128)).hex();
}

std::vector<std::pair<std::string, size_t>> Engine::memory() const {
  return memory_with({saved_.capacity(), scratch_.capacity()});
}

std::vector<std::pair<std::string, size_t>> Engine::memory_with(ArenaSizes arenas) const {
  return {{"parameters", model_.params().bytes()}, {"constants", model_.constant_bytes()},
          {"gradients", gradients_.bytes()},       {"optimizer", optimizer_->bytes()},
          {"activations", arenas.saved},           {"scratch", arenas.scratch}};
}

size_t Engine::memory_bytes() const {
  size_t total = 0;
  for (const auto& [name, bytes] : memory()) total += bytes;
  return total;
}

}  // namespace sffn
