#include "train/counters.h"

#include "kernels/ops.h"
#include "nn/host_values.h"

namespace sffn {

void clear_counters(const Transformer& model, Stream& stream) {
  for (const FfnLayer* layer : model.ffn_layers()) {
    if (layer->counters().defined()) ops::fill_zero(stream, layer->counters());
  }
}

std::vector<std::vector<double>> gather_counters(const Transformer& model, Stream& stream, Communicator& comm) {
  std::vector<std::vector<double>> all;
  for (const FfnLayer* layer : model.ffn_layers()) {
    all.emplace_back();
    if (!layer->counters().defined() || stream.is_meta()) continue;
    const std::vector<double> mine = read_values(stream, layer->counters());
    const std::vector<double> ranks = comm.gather_lists(mine);
    all.back().resize(mine.size());
    for (size_t i = 0; i < ranks.size(); ++i) all.back()[i % mine.size()] += ranks[i];
  }
  return all;
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
