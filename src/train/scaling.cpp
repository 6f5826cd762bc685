#include "train/scaling.h"

#include "train/device_peaks.h"
#include "train/engine.h"
#include "train/memory_check.h"
#include "train/plan.h"
#include "train/spread_layers.h"

#include <utility>

namespace sffn {
namespace {

// Of memory, around an exchange of gradients: each byte sent is packed (read, written), each that came is added (two
// read, one written), and the sum of those that the rank keeps is put in its place (read, written).
double sum_bytes(const Sent& sent, int64_t ranks) {
  return ranks == 1 ? 0 : sent.bytes * (5 + 2 / static_cast<double>(ranks - 1));
}

constexpr double kGradientBytes = 4;  // the norm reads every gradient that the rank updates with

struct StepSeconds {
  double compute = 0, optimizer = 0;
  double tokens = 0, gradients = 0, weights = 0;  // communication that nothing hides

  double exposed() const { return tokens + gradients + weights; }
  double total() const { return compute + optimizer + exposed(); }
};

class Model {
 public:
  Model(const Config& config, const Scaling& scaling)
      : scaling_(scaling), peaks_(require_device(scaling.device)), config_(on_gpus() ? as_on_gpu(config) : config) {
    require_vocabulary(config);
    rates_ = scaling.rates ? *scaling.rates : expected_rates();
    const int64_t micro_batch = config.train.micro_batch * config.model.context;
    const int64_t share = config.train.tokens_per_step / scaling.first;
    if (share * scaling.first != config.train.tokens_per_step || share % micro_batch != 0) {
      throw UsageError("train.tokens_per_step",
                       cat("is ", config.train.tokens_per_step, " for the step of ", scaling.first,
                           scaling.first == 1 ? " rank" : " ranks", "; a multiple of ", micro_batch * scaling.first,
                           " is expected, whole micro-batches for each"));
    }
    tokens_ = share;
    alone_ = seconds_of(layout(1, 1), 1);
  }

  Json head() const {
    Json json;
    json["name"] = config_.name;
    json["device"] = scaling_.device;
    json["network"] = to_text(scaling_.network);
    json["rates"] = to_text(rates_);
    json["tokens_per_rank"] = tokens_;
    json["one_rank_ms"] = 1e3 * alone_.total();
    json["memory_of_device"] = peaks_ != nullptr ? Json(static_cast<int64_t>(peaks_->memory)) : Json();
    return json;
  }

  Json row(int ranks, int64_t expert) const {
    const Config config = layout(ranks, expert);
    const Measurement measured = Engine::measure(config, 0, ranks);
    const StepSeconds step = seconds_of(config, ranks, measured);
    Json json;
    json["ranks"] = int64_t{ranks};
    json["expert"] = expert;
    json["zero"] = config.parallel.zero;
    json["step_ms"] = 1e3 * step.total();
    json["forward_backward_ms"] = 1e3 * step.compute;
    json["optimizer_ms"] = 1e3 * step.optimizer;
    json["exposed_communication_ms"] = 1e3 * step.exposed();
    json["exposed_ms"] = Json::Object{
        {"tokens", 1e3 * step.tokens}, {"gradients", 1e3 * step.gradients}, {"weights", 1e3 * step.weights}};
    json["tokens_per_second"] = static_cast<double>(config.train.tokens_per_step) / step.total();
    json["memory_bytes"] = measured.memory_bytes();
    json["fits"] = peaks_ != nullptr ? Json(static_cast<double>(measured.memory_bytes()) <= peaks_->memory) : Json();
    json["efficiency"] = alone_.total() / step.total();
    return json;
  }

 private:
  bool on_gpus() const { return peaks_ != nullptr; }

  Rates expected_rates() const {
    if (peaks_ == nullptr) {
      throw UsageError("--rates",
                       "is missing: what a CPU reaches is not known; `sffn bench step` prints it, as in "
                       "--rates tflops=0.1,gbs=20");
    }
    const bool bf16 = config_.train.precision == Precision::kBf16;
    return {.flops = kSustainedFlops * peaks_->flops(bf16), .bandwidth = kSustainedBandwidth * peaks_->bandwidth};
  }

  Config layout(int ranks, int64_t expert) const {
    Config config = config_;
    config.train.tokens_per_step = tokens_ * ranks;
    config.parallel.expert = expert;
    return config;
  }

  StepSeconds seconds_of(const Config& config, int ranks) const {
    return seconds_of(config, ranks, Engine::measure(config, 0, ranks));
  }

  StepSeconds seconds_of(const Config& config, int ranks, const Measurement& measured) const {
    const Network& network = scaling_.network;
    const int64_t expert = config.parallel.expert;
    StepSeconds step{.compute = measured.flops / rates_.flops,
                     .optimizer = static_cast<double>(measured.updated) * update_bytes(config) / rates_.bandwidth};
    const RankSet all = spaced_ranks(network, ranks, 1), replicas = spaced_ranks(network, ranks / expert, expert);
    for (const auto& [set, traffic] :
         {std::pair{all, measured.traffic}, std::pair{replicas, measured.replica_traffic}}) {
      step.gradients += pairwise_seconds(network, set, traffic.all_to_all) +
                        sum_bytes(traffic.all_to_all, set.ranks) / rates_.bandwidth;
      Traffic rest = traffic;
      rest.all_to_all = {};
      step.weights += traffic_seconds(network, set, rest, on_gpus());
    }
    step.gradients += kGradientBytes * static_cast<double>(measured.updated) / rates_.bandwidth;
    step.tokens = token_seconds(config, measured.expert_traffic);
    return step;
  }

  // Trips of tokens, and what else expert ranks tell each other.
  double token_seconds(const Config& config, const Traffic& counted) const {
    const RankSet group = spaced_ranks(scaling_.network, config.parallel.expert, 1);
    const int64_t n = config.train.micro_batch * config.model.context, chunk = config.parallel.expert_chunk;
    const int64_t micro_batches = tokens_ / n;
    const auto exposed = [&](const SpreadLayer& layer, const TokenTrip& trip) {
      const int64_t chunks = (n + chunk - 1) / chunk, of_chunk = (n + chunks - 1) / chunks;
      const SpreadLayer::ChunkTraffic sent = layer.chunk_traffic(trip, of_chunk);
      const double counts = traffic_seconds(scaling_.network, group, layer.count_traffic(chunks), on_gpus());
      return counts +
             exposed_seconds({.bring = traffic_seconds(scaling_.network, group, sent.bring, on_gpus()),
                              .compute = static_cast<double>(of_chunk) * trip.flops / rates_.flops,
                              .give_back = traffic_seconds(scaling_.network, group, sent.give_back, on_gpus())},
                             chunks);
    };
    Traffic rest = counted;
    double seconds = 0;
    for (const SpreadLayer& layer : spread_layers(config, on_gpus())) {
      rest = rest - static_cast<double>(micro_batches) * layer.counted(n, chunk);
      seconds += static_cast<double>(layer.forwards) * exposed(layer, layer.trips.forward) +
                 static_cast<double>(layer.trips.passes) * exposed(layer, layer.trips.backward);
    }
    return static_cast<double>(micro_batches) * seconds + traffic_seconds(scaling_.network, group, rest, on_gpus());
  }

  const Scaling& scaling_;
  const DevicePeaks* peaks_;
  Config config_;
  Rates rates_;
  int64_t tokens_ = 0;  // of a rank in a step
  StepSeconds alone_;
};

}  // namespace

Json plan_scaling(const Config& config, const Scaling& scaling) {
  const Model model(config, scaling);
  Json plan = model.head(), rows = Json::array();
  for (int64_t ranks = scaling.first; ranks <= scaling.last; ranks *= 2) {
    for (const int64_t expert : expert_layouts(config, ranks)) {
      rows.push_back(model.row(static_cast<int>(ranks), expert));
    }
  }
  plan["layouts"] = std::move(rows);
  return plan;
}

}  // namespace sffn
