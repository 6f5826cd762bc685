#include "train/engine.h"

#include "comm/groups.h"
#include "core/hash.h"
#include "kernels/ops.h"
#include "train/counters.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sffn {
namespace {

std::vector<LeafRange> leaves_of_ranks(const Config& config, int ranks, bool alike) {
  const int64_t leaves = config.micro_batches_per_step();
  if (leaves < ranks) {
    throw UsageError("train.tokens_per_step", cat("makes ", leaves, " micro-batches a step for ", ranks,
                                                  " ranks; each rank needs at least one: raise tokens_per_step, lower ",
                                                  "micro_batch or use fewer ranks"));
  }
  if (alike && leaves % ranks != 0) {
    throw UsageError("train.tokens_per_step",
                     cat("makes ", leaves, " micro-batches a step for ", ranks, " ranks; with parallel.expert ",
                         config.parallel.expert, " every rank needs as many: a multiple of ", ranks, " is expected"));
  }
  return split_leaves(leaves, ranks);
}

ExpertShare share_of(const Config& config, const Parallel& parallel) {
  return {.rank = parallel.expert->rank(),
          .ranks = parallel.expert->size(),
          .chunk = config.parallel.expert_chunk,
          .dispatch = config.parallel.dispatch};
}

}  // namespace

Engine::Engine(const Config& config, const Parallel& parallel, DeviceRuntime& runtime, ArenaSizes arenas)
    : config_(config),
      parallel_(parallel),
      runtime_(runtime),
      stream_(runtime),
      exchange_stream_(runtime),
      model_(config, share_of(config, parallel)),
      saved_(runtime, "saved", arenas.saved),
      scratch_(runtime, "scratch", arenas.scratch),
      batch_(runtime, config.model, config.train.micro_batch, config.data.document_mask),
      gradients_ready_(runtime),
      exchange_done_(runtime) {
  model_.allocate(runtime);
  const int ranks = parallel.data->size(), expert_ranks = parallel.expert->size();
  SFFN_CHECK(expert_ranks == config.parallel.expert, "a group of ", expert_ranks, " expert ranks; parallel.expert is ",
             config.parallel.expert);
  for (size_t layer = 0; layer < model_.ffn_layers().size(); ++layer) {
    if (model_.ffn_layers()[layer]->needs_whole_step() && config.micro_batches_per_step() > ranks) {
      throw UsageError(cat("model.sparse_ffn: balance.group of layer ", layer),
                       cat("is step, but ", config.micro_batches_per_step(), " micro-batches on ", ranks,
                           " ranks accumulate gradients; raise micro_batch or the ranks, or use group micro_batch"));
    }
  }
  leaves_ = leaves_of_ranks(config, ranks, expert_ranks > 1);
  groups_.emplace_back(config, parallel, runtime, model_.params(), false, leaves_);
  if (expert_ranks > 1) {
    // The replicas of a rank's blocks sum over the micro-batches that their expert groups work on together.
    const int64_t leaves = config.micro_batches_per_step() / expert_ranks;
    groups_.emplace_back(config, parallel, runtime, *model_.stores()[1], true,
                         split_leaves(leaves, parallel.replicas->size()));
  }
  reads_counts_ = expert_ranks > 1 && config.parallel.dispatch == Dispatch::kAllToAll;
  open_books();
  if (expert_ranks > 1) expert_ranks_ = std::make_unique<TimedCommunicator>(*parallel.expert, books_.waited);
}

void Engine::open_books() {
  const int ranks = parallel_.data->size();
  for (const LeafRange& leaves : leaves_) leaf_counts_.push_back(leaves.last - leaves.first);
  one_each_.assign(static_cast<size_t>(ranks), 1);
  int64_t chunks = 0;
  for (const ParameterGroup& group : groups_) chunks += group.chunks();
  const int64_t leaf = 1 + config_.model.layers, counted = counter_count(model_) + kFlags;
  const int64_t leaves = std::accumulate(leaf_counts_.begin(), leaf_counts_.end(), int64_t{0});
  const int64_t reported = update::kCount + leaf + counted + 2;
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
  books_.waited = take({2});
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

void Engine::initialise(const TokenCounts& token_counts) {
  model_.initialise(stream_, config_.train.seed, token_counts);
  for (const ParameterGroup& group : groups_) group.optimizer().adopt_values(stream_);
}

Context Engine::context() {
  Context ctx{stream_, saved_, scratch_, parallel_};
  if (expert_ranks_) ctx.parallel.expert = expert_ranks_.get();
  ctx.seed = config_.train.seed;
  ctx.clock = batch_.clock();
  ctx.count_choices = true;
  return ctx;
}

void Engine::gather(const Tensor& all, std::span<const int64_t> counts) {
  Communicator& data = *parallel_.data;
  if (data.size() > 1) data.all_gather(stream_of_exchange(), all, own_rows(data, all, counts), counts);
}

// Learning rate, number of the step and flags go to the device.
void Engine::give(Record& record, int64_t step, double learning_rate, const Flags& flags) {
  if (stream_.is_meta()) return;
  auto* given = reinterpret_cast<double*>(record.given.data());
  given[update::kLearningRate] = learning_rate;
  given[update::kStep] = static_cast<double>(step);
  std::copy(flags.begin(), flags.end(), given + 2);
  const Tensor mine = own_rows(*parallel_.data, books_.ranks, one_each_).view({books_.counted.numel()});
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

void Engine::run_micro_step() {
  if (reads_counts_) return micro_step();
  micro_steps_.run(stream_, [&] { micro_step(); });
}

void Engine::accumulate_gradients(int64_t step, const BatchOf& batch_of, const Progress& progress) {
  const LeafRange leaves = leaves_[static_cast<size_t>(parallel_.data->rank())];
  const Tensor mine = own_rows(*parallel_.data, books_.leaves, leaf_counts_);
  for (const ParameterGroup& group : groups_) group.start();
  clear_counters(model_, stream_);
  for (int64_t leaf = leaves.first; leaf < leaves.last; ++leaf) {
    const NamedRange range(stream_, "micro-step", leaf - leaves.first);
    const int64_t first_sequence = leaf * config_.train.micro_batch;
    progress("data");
    const Batch batch = batch_of(first_sequence, config_.train.micro_batch);
    progress(kPass);
    batch_.send(stream_, batch, {static_cast<int32_t>(step), static_cast<int32_t>(first_sequence)});
    for (const ParameterGroup& group : groups_) group.next(stream_);
    if (!stream_.is_meta() || leaf == leaves.first) run_micro_step();  // there each does what the first does
    ops::copy(stream_, mine.slice(leaf - leaves.first, 1).view(books_.leaf.shape()), books_.leaf);
    for (const ParameterGroup& group : groups_) group.push(stream_);
  }
}

// The sum of all micro-batches' gradients comes to the ranks that update with it, and every rank gets the numbers of
// the update. On a stream of its own.
void Engine::exchange() {
  collect_counters(model_, stream_, own_rows(*parallel_.data, books_.ranks, one_each_).view({books_.counted.numel()}));
  gradients_ready_.record(stream_);
  gradients_ready_.hold(stream_of_exchange());
  Stream& stream = stream_of_exchange();
  int64_t first = 0;
  for (const ParameterGroup& group : groups_) {
    const int64_t chunks = group.chunks();
    group.exchange(stream, scratch_, books_.squares.slice(std::exchange(first, first + chunks), chunks));
  }
  gather(books_.leaves, leaf_counts_);
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
  for (const ParameterGroup& group : groups_) group.update(stream_, books_.numbers);
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
  if (expert_ranks_) expert_ranks_->take_host_milliseconds();  // of evaluations
  stream_.take_background_milliseconds();
  ops::fill_zero(stream_, books_.waited);
  give(record, step, learning_rate, flags);
  accumulate_gradients(step, batch_of, progress);
  record.computed.record(stream_);
  record.host_waited_ms = stream_.take_background_milliseconds();
  if (expert_ranks_) record.host_waited_ms += expert_ranks_->take_host_milliseconds();
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
  for (const ParameterGroup& group : groups_) group.gather_values(stream_);
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
  const double* extra = report + update::kCount + 1;
  const double* counted = extra + config_.model.layers;
  const double* waited = counted + books_.counted.numel();
  const double amid_passes = record.host_waited_ms + 1e-6 * waited[1];
  numbers.communication_ms += amid_passes;
  numbers.forward_backward_ms -= amid_passes;
  numbers.loss = report[update::kLoss];
  numbers.gradient_norm = report[update::kNorm];
  numbers.finite = report[update::kApplied] != 0;
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
  for (const ParameterGroup& group : groups_) group.round_values(stream_);
  for (const ParameterGroup& group : groups_) group.gather_values(stream_);
}

Fingerprints Engine::fingerprints() {
  FingerprintSums sums;
  for (const ParameterGroup& group : groups_) {
    for (const Param& param : group.params().all()) {
      if (param.spec.block_rows > 0)
        sums.expect(layer_of(param.spec.name), param.spec.shape[0] / param.spec.block_rows);
    }
    for (const OwnedPiece& owned : owned_pieces(group)) {
      const ParamSpec& spec = owned.piece->param->spec;
      const int64_t begin = owned.begin - owned.piece->begin, count = owned.end - owned.begin;
      const auto add = [&](const std::string& name, const Tensor& tensor) {
        sums.add(stream_, name, tensor.slice(begin, count), owned.first, spec.block_rows * spec.row_elements());
      };
      add(spec.name, owned.piece->master);
      add("adam.m:" + spec.name, owned.piece->m);
      add("adam.v:" + spec.name, owned.piece->v);
    }
  }
  for (const State& state : model_.params().states()) {  // whole on every rank
    if (state.spec.saved && parallel_.data->rank() == 0) sums.add(stream_, state.spec.name, state.value, 0, 0);
  }
  return sums.total(*parallel_.data);
}

std::string Engine::state_hash() {
  std::string all;
  for (const auto& [name, numbers] : fingerprints()) {
    all += name + '\n';
    all.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(uint64_t));
  }
  return hash128(all).hex();
}

std::vector<std::pair<std::string, size_t>> Engine::memory() const {
  return memory_with({saved_.capacity(), scratch_.capacity()});
}

std::vector<std::pair<std::string, size_t>> Engine::memory_with(ArenaSizes arenas) const {
  size_t parameters = 0, gradients = 0, optimizer = 0;
  for (const ParameterGroup& group : groups_) {
    parameters += group.params().bytes();
    gradients += group.gradient_bytes();
    optimizer += group.optimizer().bytes();
  }
  return {{"parameters", parameters},
          {"constants", model_.constant_bytes()},
          {"gradients", gradients},
          {"optimizer", optimizer},
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
