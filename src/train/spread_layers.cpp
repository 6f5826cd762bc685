#include "train/spread_layers.h"

#include "ffn/registry.h"

#include <numeric>

namespace sffn {
namespace {

SpreadLayer of_layer(const Config& config, const FfnOptions& options, int64_t layer, bool on_gpus) {
  const TokenTrips trips = options.token_trips(config.model, static_cast<int64_t>(size_of(config.dtype())));
  SpreadLayer found{
      .layer = layer, .blocks = options.block_shape()->blocks(), .ranks = config.parallel.expert, .trips = trips};
  found.forwards = trips.passes * (config.train.recompute == Recompute::kBlock ? 2 : 1);
  found.ring = on_gpus;
  if (!trips.all) found.way = choose_dispatch(config.parallel.dispatch, found.volume(trips.forward), on_gpus);
  return found;
}

Traffic brought(Dispatch way, const Sent& sent) {
  return way == Dispatch::kGather ? Traffic{.all_gather = sent} : Traffic{.all_to_all = sent};
}

}  // namespace

DispatchVolume SpreadLayer::volume(const TokenTrip& trip) const {
  DispatchVolume volume = dispatch_volume(ranks, trips.used, trip.bytes);
  if (trips.all) volume.all_to_all = volume.gather;
  return volume;
}

SpreadLayer::ChunkTraffic SpreadLayer::chunk_traffic(const TokenTrip& trip, int64_t tokens) const {
  const auto others = static_cast<double>(ranks - 1), n = static_cast<double>(tokens);
  const DispatchVolume all = volume(trip);
  const double share = way == Dispatch::kGather ? 1 : all.all_to_all / all.gather;  // of the tokens, to each rank
  const auto sent = [&](int64_t calls, double token_bytes) {
    return Sent{others * static_cast<double>(calls), others * n * share * token_bytes};
  };
  const Sent brings = sent(trip.brings, trip.bytes.there + trip.bytes.list);
  return {.bring = ring ? brought(way, brings) : Traffic{.all_to_all = brings},
          .give_back = {.all_to_all = sent(trip.returns, trip.bytes.back)}};
}

// Ranks tell each other how many counts they have, then the counts.
Traffic SpreadLayer::count_traffic(int64_t chunks) const {
  if (way == Dispatch::kGather) return {};
  constexpr double kCountBytes = 4, kSizeBytes = 8;
  const auto others = static_cast<double>(ranks - 1), counts = static_cast<double>(ranks * chunks);
  return {.all_gather = {2 * others, others * (kSizeBytes + kCountBytes * counts)}};
}

Traffic SpreadLayer::counted(int64_t tokens, int64_t chunk) const {
  const auto others = static_cast<double>(ranks - 1), n = static_cast<double>(tokens);
  const auto chunks = static_cast<double>((tokens + chunk - 1) / chunk);
  const auto of_pass = [&](const TokenTrip& trip) {
    const auto sent = [&](int64_t calls, double token_bytes) {
      return Sent{others * chunks * static_cast<double>(calls), others * n * token_bytes};
    };
    Traffic traffic = brought(way, sent(trip.brings, trip.bytes.there + trip.bytes.list));
    traffic.all_to_all += sent(trip.returns, trip.bytes.back);
    return traffic;
  };
  Traffic total = static_cast<double>(forwards) * of_pass(trips.forward);
  return total += static_cast<double>(trips.passes) * of_pass(trips.backward);
}

std::vector<SpreadLayer> spread_layers(const Config& config, bool on_gpus) {
  std::vector<SpreadLayer> layers;
  if (config.parallel.expert == 1) return layers;
  const std::vector<FfnEntry> ffn = resolve_ffn(config.model, "config");
  for (size_t layer = 0; layer < ffn.size(); ++layer) {
    const FfnOptions& options = *ffn[layer].options;
    if (options.block_shape() == nullptr) continue;
    layers.push_back(of_layer(config, options, static_cast<int64_t>(layer), on_gpus));
  }
  return layers;
}

std::vector<int64_t> expert_layouts(const Config& config, int64_t ranks) {
  int64_t divided = 0;  // greatest common divisor of what is to be divided; 0: nothing yet
  for (const FfnEntry& entry : resolve_ffn(config.model, "config")) {
    const BlockShape* shape = entry.options->block_shape();
    if (shape != nullptr) divided = std::gcd(divided, shape->shared_blocks());
  }
  std::vector<int64_t> layouts{1};
  for (int64_t spread = 2; divided > 0 && spread <= ranks; spread *= 2) {
    if (ranks % spread == 0 && divided % spread == 0) layouts.push_back(spread);
  }
  return layouts;
}

}  // namespace sffn
