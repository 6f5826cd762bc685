// One rank's share of training: the model, its gradient buffers, optimizer state and arenas, and the update step.
#pragma once
#include "comm/planned.h"
#include "comm/timed.h"
#include "comm/tree.h"
#include "config/config.h"
#include "core/arena.h"
#include "core/json.h"
#include "data/batch_source.h"
#include "model/batch_tensors.h"
#include "model/transformer.h"
#include "nn/context.h"
#include "train/parameter_group.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sffn {

struct ArenaSizes {
  size_t saved = 0, scratch = 0;  // bytes
};

// What a rank of a run needs and does in one step, found on the meta device.
struct Measurement {
  ArenaSizes arenas;
  std::vector<std::pair<std::string, size_t>> memory;  // bytes by name
  Traffic traffic;                                     // bytes this rank sends
  Traffic expert_traffic;                              // and those to the blocks of other ranks, and back
  OpCounter work;                                      // FLOPs this rank really executes, recomputation included
};

struct StepNumbers {
  double loss = 0;           // mean -log p over the step's tokens, plus the extra losses
  double gradient_norm = 0;  // before clipping, over all parameters
  bool finite = true;        // loss and norm; when false nothing was updated
  double forward_backward_ms = 0, optimizer_ms = 0;
  double communication_ms = 0;  // that nothing hides; on a GPU without the exchange of tokens within a pass
  Json ffn = Json::object();  // "LAYER": what the layer counted, and balance_loss; layers that count nothing are absent
  Json block_load = Json::object();  // "LAYER": choices of each block in this step
  std::vector<double> flags;         // those of all ranks, summed
};

class Engine {
 public:
  // Rows [first, first + count) of the step's global batch.
  using BatchOf = std::function<Batch(int64_t first, int64_t count)>;
  // Called as the step goes on, with the phase that begins: for heartbeats.
  using Progress = std::function<void(std::string_view phase)>;
  // What each rank may say with a step, Σ over the ranks of which comes back with its numbers.
  static constexpr int64_t kFlags = 8;
  using Flags = std::array<double, kFlags>;
  static constexpr std::string_view kPass = "forward and backward", kGradientExchange = "gradient exchange",
                                    kWeightExchange = "weight exchange";

  // Needs config.model.vocab_size; throws UsageError when the step has fewer micro-batches than there are ranks, and
  // where blocks are spread and ranks would have different numbers of them.
  Engine(const Config& config, const Parallel& parallel, DeviceRuntime& runtime, ArenaSizes arenas);

  // One step and one evaluation batch of rank `rank` on the meta device: the arena sizes are exact.
  static Measurement measure(const Config& config, int rank, int ranks);

  // Weights by seed and name, moments zero; token_counts as in Transformer::initialise.
  void initialise(const TokenCounts& token_counts = no_token_counts);
  // Update number `step` (from 1), from micro-batches to weights, put on the device's queue: nothing of it is read
  // here. Collective over the data ranks; loss, norm and weights do not depend on their number.
  void start(int64_t step, const BatchOf& batch_of, double learning_rate, const Flags& flags, const Progress& progress);
  // Waits for the oldest step that was started and not finished.
  StepNumbers finish();
  // How many steps may be started before one is finished: 2 where the device works on its own, else 1.
  int depth() const { return runtime_.is_asynchronous() ? 2 : 1; }
  // start and finish
  StepNumbers step(int64_t step, const BatchOf& batch_of, double learning_rate, const Progress& progress);
  // Whether ranks wait for one another in this phase of a step.
  bool waits_in(std::string_view phase) const {
    return phase == kGradientExchange || phase == kWeightExchange || (phase == kPass && groups_.size() > 1);
  }
  // Forward only, in evaluation mode: -log p of each token [B·T].
  std::vector<float> evaluate(const Batch& batch);

  Transformer& model() { return model_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }
  Stream& stream() { return stream_; }
  const Config& config() const { return config_; }
  // After weights or moments were loaded into the optimizer's pieces: rounds, and gathers the other ranks' values.
  void publish_values();
  // XXH3-128 over weights and moments of every parameter chunk in flat order, and saved state: equal for any number of
  // ranks that share blocks alike.
  std::string state_hash();

  // What this rank allocated, by name; equal to Measurement::memory.
  std::vector<std::pair<std::string, size_t>> memory() const;
  size_t memory_bytes() const;

 private:
  // Numbers of a step on the device, all f64 in one buffer. Legend: M leaves, L layers, C chunks, K counters, F flags,
  // R ranks.
  struct Books {
    Tensor report;   // numbers, sums, counters, flags: what the host reads
    Tensor numbers;  // [update::kCount]
    Tensor sums;     // [1 + L] of the leaves
    Tensor counted;  // [K + F] of all ranks
    Tensor leaf;     // [1 + L] of the micro-batch at hand: Σ -log p, extra losses
    Tensor leaves;   // [M, 1 + L]
    Tensor squares;  // [C, 1], of all groups
    Tensor norm;     // [1]
    Tensor ranks;    // [R, K + F]
    Tensor extra;    // [L] acc, of the micro-batch at hand
    Buffer memory, extra_memory;
  };
  // The host's side of one step that was started.
  struct Record {
    explicit Record(DeviceRuntime& runtime)
        : begin(runtime), computed(runtime), exchanged(runtime), updated(runtime), done(runtime) {}
    HostBuffer given, report;
    Event begin, computed, exchanged, updated, done;
  };

  void open_books();
  void give(Record& record, int64_t step, double learning_rate, const Flags& flags);
  void accumulate_gradients(int64_t step, const BatchOf& batch_of, const Progress& progress);
  void micro_step();
  void exchange();
  // A profile is of one stream.
  Stream& stream_of_exchange() { return stream_.is_profiled() ? stream_ : exchange_stream_; }
  void gather(const Tensor& all, std::span<const int64_t> counts);
  void update();
  std::vector<std::pair<std::string, size_t>> memory_with(ArenaSizes arenas) const;
  Context context();

  const Config config_;
  const Parallel parallel_;
  DeviceRuntime& runtime_;
  Stream stream_, exchange_stream_;
  Transformer model_;
  std::vector<LeafRange> leaves_;  // per rank: its micro-batches of a step
  std::vector<ParameterGroup> groups_;
  // Of a pass, where blocks are spread, on a device whose calls return when the work is done.
  std::unique_ptr<TimedCommunicator> expert_ranks_;
  Arena saved_, scratch_;
  BatchUpload batch_;
  std::vector<int64_t> leaf_counts_, one_each_;  // rows of each rank in the books
  Books books_;
  Event gradients_ready_, exchange_done_;
  bool reads_counts_ = false;  // the host reads counts within a micro-step, which then cannot be recorded
  Replay micro_steps_, exchanges_, updates_;
  std::vector<Record> records_;  // used in turn
  int64_t started_ = 0, finished_ = 0;
};

}  // namespace sffn
