#include "tools/bench/comm.h"

#include "comm/tree.h"
#include "core/arena.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

namespace sffn {
namespace {

constexpr int kRepeats = 9;

double median_ms(Communicator& ranks, const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < kRepeats + 2; ++i) {
    ranks.barrier();
    const auto start = std::chrono::steady_clock::now();
    call();
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (i >= 2) times.push_back(ranks.max_value(ms));
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
}

}  // namespace

Json bench_comm(Communicator& ranks) {
  const int size = ranks.size();
  Json rows = Json::array();
  Stream stream(cpu_runtime());
  for (int64_t elements = int64_t{1} << 12; elements <= int64_t{1} << 24; elements <<= 4) {
    const int64_t share = elements / size, total = share * size;
    Buffer all(cpu_runtime(), {total}, DType::kF32), other(cpu_runtime(), {total}, DType::kF32);
    const Tensor a = all.tensor({total}, DType::kF32), b = other.tensor({total}, DType::kF32);
    const std::vector<int64_t> counts(size, share);
    const double sent = 4.0 * static_cast<double>(share) * (size - 1);
    const auto add = [&](const char* name, double ms) {
      Json row;
      row["collective"] = name;
      row["bytes"] = sent;
      row["ms"] = ms;
      row["gigabytes_per_second"] = sent / ms * 1e-6;
      rows.push_back(row);
    };
    add("all_gather",
        median_ms(ranks, [&] { ranks.all_gather(stream, a, b.slice(share * ranks.rank(), share), counts); }));
    add("all_to_all", median_ms(ranks, [&] { ranks.all_to_all(stream, a, counts, b, counts); }));

    const SumTree tree(split_leaves(size, size));
    std::vector<FlatRange> owned;
    for (int r = 0; r < size; ++r) owned.push_back({share * r, share});
    Arena scratch(cpu_runtime(), "scratch", 4 * kTreeExchangeBytes);
    const std::vector<Tensor> partials{a};
    add("tree_reduce_scatter", median_ms(ranks, [&] {
          tree_reduce_scatter(stream, ranks, scratch, tree, b.slice(0, share), partials, owned);
        }));
  }
  return Json::Object{{"ranks", int64_t{size}}, {"collectives", std::move(rows)}};
}

}  // namespace sffn
