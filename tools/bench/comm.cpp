#include "tools/bench/comm.h"

#include "comm/tree.h"
#include "core/arena.h"
#include "train/network.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

namespace sffn {
namespace {

constexpr int64_t kSmallest = int64_t{1} << 12, kLargest = int64_t{1} << 24;  // elements of all ranks together
constexpr int64_t kOftenTimed = int64_t{1} << 16;  // at most: a call is short beside what disturbs it

int usual_repeats(int64_t elements) { return elements <= kOftenTimed ? 101 : 9; }

double median_ms(Communicator& ranks, Stream& stream, int repeats, const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    ranks.barrier();
    const auto start = std::chrono::steady_clock::now();
    call();
    stream.synchronize();
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (i >= 2) times.push_back(ranks.max_value(ms));
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<size_t>(repeats / 2)];
}

// The collectives of a step over `elements` numbers of all ranks together.
class Collectives {
 public:
  Collectives(Communicator& ranks, DeviceRuntime& device, int64_t elements, int repeats)
      : ranks_(ranks),
        device_(device),
        stream_(device),
        share_(elements / ranks.size()),
        repeats_(repeats > 0 ? repeats : usual_repeats(elements)),
        all_(device, {share_ * ranks.size()}, DType::kF32),
        other_(device, {share_ * ranks.size()}, DType::kF32),
        counts_(static_cast<size_t>(ranks.size()), share_) {}

  double bytes() const { return 4.0 * static_cast<double>(share_) * (ranks_.size() - 1); }  // that a rank sends
  double all_gather_ms() {
    return median_ms(ranks_, stream_, repeats_,
                     [&] { ranks_.all_gather(stream_, tensor(all_), own(tensor(other_)), counts_); });
  }
  double all_to_all_ms() {
    return median_ms(ranks_, stream_, repeats_,
                     [&] { ranks_.all_to_all(stream_, tensor(all_), counts_, tensor(other_), counts_); });
  }
  double tree_reduce_scatter_ms() {
    const SumTree tree(split_leaves(ranks_.size(), ranks_.size()));
    std::vector<FlatRange> owned;
    for (int r = 0; r < ranks_.size(); ++r) owned.push_back({share_ * r, share_});
    Arena scratch(device_, "scratch", 4 * kTreeExchangeBytes);
    const std::vector<Tensor> partials{tensor(all_)};
    return median_ms(ranks_, stream_, repeats_, [&] {
      tree_reduce_scatter(stream_, ranks_, scratch, tree, tensor(other_).slice(0, share_), partials, owned,
                          tree_exchange_bytes(ranks_.size()));
    });
  }

 private:
  Tensor tensor(const Buffer& buffer) const { return buffer.tensor({share_ * ranks_.size()}, DType::kF32); }
  Tensor own(const Tensor& all) const { return all.slice(share_ * ranks_.rank(), share_); }

  Communicator& ranks_;
  DeviceRuntime& device_;
  Stream stream_;
  int64_t share_;
  int repeats_;
  Buffer all_, other_;
  std::vector<int64_t> counts_;
};

Link measure_link(Communicator& group, DeviceRuntime& device, int repeats) {
  const double others = group.size() - 1;
  Collectives small(group, device, kSmallest, repeats), large(group, device, kLargest, repeats);
  const double latency = 0.5e-3 * (small.all_gather_ms() + small.all_to_all_ms()) / others;
  const double seconds = 0.5e-3 * (large.all_gather_ms() + large.all_to_all_ms());
  return {.latency = latency, .bandwidth = large.bytes() / (seconds - others * latency)};
}

// Every rank of a node at once, each with the ranks in its place on other nodes.
Network measure_network(Communicator& ranks, DeviceRuntime& device, const Placement& placement, int repeats) {
  const Span per_node = span_of(placement.ranks_per_node());
  Network network{.per_node = per_node.high, .node = {}, .net = {}};
  if (per_node.low != per_node.high) {
    throw UsageError("bench comm", "nodes have different numbers of ranks; links are measured with as many on each");
  }
  const auto node = ranks.split(placement.node_of_rank[static_cast<size_t>(ranks.rank())], ranks.rank());
  if (placement.nodes() > 1) {
    const auto across = ranks.split(node->rank(), ranks.rank());
    network.net = measure_link(*across, device, repeats);
  }
  network.node = per_node.high > 1 ? measure_link(*node, device, repeats) : *network.net;
  return network;
}

}  // namespace

Json bench_comm(Communicator& ranks, DeviceRuntime& device, const Placement& placement, int repeats) {
  Json rows = Json::array();
  for (int64_t elements = kSmallest; elements <= kLargest; elements <<= 4) {
    Collectives collectives(ranks, device, elements, repeats);
    const auto add = [&](const char* name, double ms) {
      Json row;
      row["collective"] = name;
      row["bytes"] = collectives.bytes();
      row["ms"] = ms;
      row["gigabytes_per_second"] = collectives.bytes() / ms * 1e-6;
      rows.push_back(row);
    };
    add("all_gather", collectives.all_gather_ms());
    add("all_to_all", collectives.all_to_all_ms());
    add("tree_reduce_scatter", collectives.tree_reduce_scatter_ms());
  }
  Json report{Json::Object{{"ranks", int64_t{ranks.size()}}, {"collectives", std::move(rows)}}};
  report["network"] = ranks.size() > 1 ? Json(to_text(measure_network(ranks, device, placement, repeats))) : Json();
  return report;
}

}  // namespace sffn
