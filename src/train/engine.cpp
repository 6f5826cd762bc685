#include "train/engine.h"

#include "core/hash.h"
#include "kernels/ops.h"
#include "train/counters.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sffn {
namespace {

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
      exchange_stream_(runtime),
      model_(config),
      saved_(runtime, "saved", arenas.saved),
      scratch_(runtime, "scratch", arenas.scratch),
      batch_(runtime, config.model, config.train.micro_batch, config.data.document_mask),
      gradients_ready_(runtime),
      exchange_done_(runtime) {
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

  // One gradient buffer on a device that records its work: every micro-batch writes to the same place.
  const bool folds = config.train.deterministic && !runtime.is_asynchronous();
  tree_ = std::make_unique<SumTree>(leaves_of_ranks(config, ranks), folds);
  const int64_t buffers = tree_->buffers(rank);
  const DType type = accumulate_type(params.dtype());
  gradients_ = Buffer(runtime, {buffers, params.flat_size()}, type);
  const Tensor all = gradients_.tensor({buffers, params.flat_size()}, type);
  std::vector<Tensor> flat;
  for (int64_t i = 0; i < buffers; ++i) flat.push_back(all.slice(i, 1).view({params.flat_size()}));
  fold_ = std::make_unique<TreeFold>(*tree_, rank, std::move(flat));
  open_books();
}

void Engine::open_books() {
  const int ranks = parallel_.data->size(), rank = parallel_.data->rank();
  for (int r = 0; r < ranks; ++r) {
    leaf_counts_.push_back(tree_->share(r).last - tree_->share(r).first);
    chunk_counts_.push_back(chunk_count(model_.params(), ranges_[static_cast<size_t>(r)]));
  }
  one_each_.assign(static_cast<size_t>(ranks), 1);
  if (config_.parallel.zero == 0) chunk_counts_.assign(1, chunk_counts_[static_cast<size_t>(rank)]);
  const auto total = [](const std::vector<int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
  };
  const int64_t leaf = 1 + config_.model.layers, counted = counter_count(model_) + kFlags;
  const int64_t leaves = total(leaf_counts_), chunks = total(chunk_counts_);
  const int64_t reported = update::kCount + leaf + counted;
  const int64_t numbers = reported + leaf + leaves * leaf + chunks + 1 + ranks * counted;
  books_.memory = Buffer(runtime_, {numbers}, DType::kF64);
  const Tensor all = books_.memory.tensor({numbers}, DType::kF64);
  int64_t at = 0;
  const auto take = [&](Shape shape) {
    return all.slice(std::exchange(at, at + shape.numel()), shape.numel()).view(shape);
  };
  books_.report = all.slice(0, reported);
  books_.numbers = take({update::kCount});
  books_.sums = take({leaf});
  books_.counted = take({counted});
  books_.leaf = take({leaf});
  books_.leaves = take({leaves, leaf});
  books_.squares = take({chunks, 1});
  books_.norm = take({1});
  books_.ranks = take({ranks, counted});
  const DType acc = accumulate_type(model_.params().dtype());
  books_.extra_memory = Buffer(runtime_, {config_.model.layers}, acc);
  books_.extra = books_.extra_memory.tensor({config_.model.layers}, acc);
  for (int i = 0; i < depth(); ++i) {
    records_.emplace_back(runtime_);
    records_.back().given = HostBuffer(runtime_, (2 + kFlags) * sizeof(double));
    records_.back().report = HostBuffer(runtime_, books_.report.bytes());
  }
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

Context Engine::context() {
  Context ctx{stream_, saved_, scratch_, parallel_};
  ctx.seed = config_.train.seed;
  ctx.clock = batch_.clock();
  ctx.count_choices = true;
  return ctx;
}

// This rank's rows of what all ranks fill together.
Tensor Engine::own(const Tensor& of_all_ranks, std::span<const int64_t> counts) const {
  if (counts.size() == 1) return of_all_ranks;
  const auto rank = static_cast<size_t>(parallel_.data->rank());
  return of_all_ranks.slice(std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0}), counts[rank]);
}

void Engine::gather(const Tensor& all, std::span<const int64_t> counts) {
  if (counts.size() > 1) parallel_.data->all_gather(stream_of_exchange(), all, own(all, counts), counts);
}

// Learning rate, number of the step and flags go to the device.
void Engine::give(Record& record, int64_t step, double learning_rate, const Flags& flags) {
  if (stream_.is_meta()) return;
  auto* given = reinterpret_cast<double*>(record.given.data());
  given[update::kLearningRate] = learning_rate;
  given[update::kStep] = static_cast<double>(step);
  std::copy(flags.begin(), flags.end(), given + 2);
  const Tensor mine = own(books_.ranks, one_each_).view({books_.counted.numel()});
  stream_.copy_to_device(books_.numbers.slice(0, 2), given);
  stream_.copy_to_device(mine.slice(mine.numel() - kFlags, kFlags), given + 2);
}

// One micro-batch, from the ids on the device to its share of the gradient and the losses of its leaf.
void Engine::micro_step() {
  saved_.reset();
  Context ctx = context();
  const double loss_scale = 1.0 / static_cast<double>(config_.train.tokens_per_step);
  model_.forward_backward(ctx, batch_.tensors(), loss_scale, {books_.leaf.slice(0, 1), books_.extra});
  ops::copy(stream_, books_.leaf.slice(1, config_.model.layers), books_.extra);
}

void Engine::accumulate_gradients(int64_t step, const BatchOf& batch_of, const Progress& progress) {
  const LeafRange leaves = tree_->share(parallel_.data->rank());
  const Tensor mine = own(books_.leaves, leaf_counts_);
  fold_->start();
  clear_counters(model_, stream_);
  for (int64_t leaf = leaves.first; leaf < leaves.last; ++leaf) {
    const NamedRange range(stream_, "micro-step", leaf - leaves.first);
    const int64_t first_sequence = leaf * config_.train.micro_batch;
    progress("data");
    const Batch batch = batch_of(first_sequence, config_.train.micro_batch);
    progress("forward and backward");
    batch_.send(stream_, batch, {static_cast<int32_t>(step), static_cast<int32_t>(first_sequence)});
    model_.params().use_gradients(fold_->next(stream_));
    micro_steps_.run(stream_, [&] { micro_step(); });
    ops::copy(stream_, mine.slice(leaf - leaves.first, 1).view(books_.leaf.shape()), books_.leaf);
    fold_->push(stream_);
  }
}

// The sum of all micro-batches' gradients comes to the ranks that update with it, and every rank gets the numbers of
// the update. On a stream of its own.
void Engine::exchange() {
  Communicator& data = *parallel_.data;
  collect_counters(model_, stream_, own(books_.ranks, one_each_).view({books_.counted.numel()}));
  gradients_ready_.record(stream_);
  gradients_ready_.hold(stream_of_exchange());
  Stream& stream = stream_of_exchange();
  const std::vector<Tensor> partials = fold_->partials();
  const FlatRange range = optimizer_->range();
  const Tensor grad = partials[0].slice(range.offset, range.count);
  tree_reduce_scatter(stream, data, scratch_, *tree_, grad, partials, ranges_);
  chunk_square_sums(stream, own(books_.squares, chunk_counts_).view({chunk_count(model_.params(), range)}),
                    model_.params(), range, grad);
  gather(books_.leaves, leaf_counts_);
  gather(books_.squares, chunk_counts_);
  gather(books_.ranks, one_each_);
  ops::tree_sum(stream, books_.sums, books_.leaves);
  ops::tree_sum(stream, books_.norm, books_.squares);
  ops::tree_sum(stream, books_.counted, books_.ranks);
  ops::update_numbers(stream, books_.numbers, books_.sums, books_.norm,
                      static_cast<double>(config_.train.tokens_per_step), static_cast<double>(books_.leaves.rows()),
                      config_.optimizer.clip);
  exchange_done_.record(stream);
  exchange_done_.hold(stream_);
}

void Engine::update() {
  const FlatRange range = optimizer_->range();
  optimizer_->update(stream_, fold_->partials()[0].slice(range.offset, range.count), books_.numbers);
  int64_t at = 0;
  for (FfnLayer* layer : model_.ffn_layers()) {
    if (!layer->counters().defined()) continue;
    const int64_t count = layer->counters().numel();
    layer->after_step(stream_, books_.counted.slice(at, count), books_.numbers);
    at += count;
  }
}

void Engine::start(int64_t step, const BatchOf& batch_of, double learning_rate, const Flags& flags,
                   const Progress& progress) {
  SFFN_CHECK(started_ - finished_ < depth(), "a step is started while ", depth(), " are not finished");
  Record& record = records_[static_cast<size_t>(started_ % depth())];
  record.begin.record(stream_);
  give(record, step, learning_rate, flags);
  accumulate_gradients(step, batch_of, progress);
  record.computed.record(stream_);
  progress(kGradientExchange);
  {
    const NamedRange name(stream_, "gradient exchange");
    exchanges_.run(stream_, [&] { exchange(); });
  }
  record.exchanged.record(stream_);
  progress("optimizer");
  {
    const NamedRange name(stream_, "optimizer");
    updates_.run(stream_, [&] { update(); });
  }
  record.updated.record(stream_);
  progress(kWeightExchange);
  const NamedRange name(stream_, "weight exchange");
  if (config_.parallel.zero == 1) gather_values(stream_, *parallel_.data, model_.params(), ranges_);
  if (!stream_.is_meta()) stream_.copy_to_host(record.report.data(), books_.report);
  record.done.record(stream_);
  ++started_;
}

StepNumbers Engine::finish() {
  SFFN_CHECK(finished_ < started_, "no step is left to finish");
  const Record& record = records_[static_cast<size_t>(finished_++ % depth())];
  record.done.wait();
  StepNumbers numbers;
  if (stream_.is_meta()) return numbers;
  numbers.forward_backward_ms = record.computed.milliseconds_since(record.begin);
  numbers.communication_ms =
      record.exchanged.milliseconds_since(record.computed) + record.done.milliseconds_since(record.updated);
  numbers.optimizer_ms = record.updated.milliseconds_since(record.exchanged);
  const auto* report = reinterpret_cast<const double*>(record.report.data());
  numbers.loss = report[update::kLoss];
  numbers.gradient_norm = report[update::kNorm];
  numbers.finite = report[update::kApplied] != 0;
  const double* extra = report + update::kCount + 1;
  const double* counted = extra + config_.model.layers;
  const std::vector<std::vector<double>> counts = split_counters(model_, counted);
  numbers.block_load = block_load(model_, counts);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i].empty()) continue;
    Json statistics = model_.ffn_layers()[i]->statistics(counts[i]);
    statistics["balance_loss"] = extra[i] / static_cast<double>(books_.leaves.rows());
    numbers.ffn[cat(i)] = std::move(statistics);
  }
  numbers.flags.assign(counted + counter_count(model_), counted + counter_count(model_) + kFlags);
  return numbers;
}

StepNumbers Engine::step(int64_t step, const BatchOf& batch_of, double learning_rate, const Progress& progress) {
  start(step, batch_of, learning_rate, Flags{}, progress);
  return finish();
}

std::vector<float> Engine::evaluate(const Batch& batch) {
  saved_.reset();
  Context ctx = context();
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
  return {{"parameters", model_.params().bytes()},
          {"constants", model_.constant_bytes()},
          {"gradients", gradients_.bytes()},
          {"optimizer", optimizer_->bytes()},
          {"activations", arenas.saved},
          {"scratch", arenas.scratch},
          {"batch and report", batch_.bytes() + books_.memory.bytes() + books_.extra_memory.bytes()}};
}

size_t Engine::memory_bytes() const {
  size_t total = 0;
  for (const auto& [name, bytes] : memory()) total += bytes;
  return total;
}

}  // namespace sffn
