#include "train/counters.h"

#include "kernels/ops.h"
#include "nn/host_values.h"

namespace sffn {

int64_t counter_count(const Transformer& model) {
  int64_t count = 0;
  for (const FfnLayer* layer : model.ffn_layers()) count += layer->counters().defined() ? layer->counters().numel() : 0;
  return count;
}

void clear_counters(const Transformer& model, Stream& stream) {
  for (const FfnLayer* layer : model.ffn_layers()) {
    if (layer->counters().defined()) ops::fill_zero(stream, layer->counters());
  }
}

void collect_counters(const Transformer& model, Stream& stream, const Tensor& out) {
  int64_t at = 0;
  for (const FfnLayer* layer : model.ffn_layers()) {
    const Tensor counters = layer->counters();
    if (!counters.defined()) continue;
    ops::copy(stream, out.slice(at, counters.numel()), counters);
    at += counters.numel();
  }
}

std::vector<std::vector<double>> split_counters(const Transformer& model, const double* list) {
  std::vector<std::vector<double>> layers;
  for (const FfnLayer* layer : model.ffn_layers()) {
    const int64_t count = layer->counters().defined() ? layer->counters().numel() : 0;
    layers.emplace_back(list, list + count);
    list += count;
  }
  return layers;
}

std::vector<std::vector<double>> gather_counters(const Transformer& model, Stream& stream, Communicator& comm) {
  std::vector<double> sums(static_cast<size_t>(counter_count(model)));
  if (stream.is_meta()) return {};
  std::vector<double> mine;
  for (const FfnLayer* layer : model.ffn_layers()) {
    if (!layer->counters().defined()) continue;
    const std::vector<double> counters = read_values(stream, layer->counters());
    mine.insert(mine.end(), counters.begin(), counters.end());
  }
  const std::vector<double> ranks = comm.gather_lists(mine);
  for (size_t i = 0; i < ranks.size(); ++i) sums[i % sums.size()] += ranks[i];
  return split_counters(model, sums.data());
}

Json block_load(const Transformer& model, const std::vector<std::vector<double>>& counters) {
  Json layers = Json::object();
  for (size_t i = 0; i < counters.size(); ++i) {
    if (counters[i].empty()) continue;
    Json::Array load;
    for (const double choices : model.ffn_layers()[i]->block_load(counters[i])) {
      load.push_back(static_cast<int64_t>(choices));
    }
    if (!load.empty()) layers[cat(i)] = Json(std::move(load));
  }
  return layers;
}

}  // namespace sffn
