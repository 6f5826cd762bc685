#include "config/layers.h"

#include "config/reader.h"

#include <algorithm>
#include <numeric>

namespace sffn {
namespace {

std::vector<int> every_nth(const Json& selection, int layers, const std::string& place) {
  ConfigReader reader(selection, place);
  const auto every = reader.required<int64_t>("every", "distance between chosen layers", kAtLeastOne);
  const auto offset = reader.optional<int64_t>("offset", every - 1, "first chosen layer", kNotNegative);
  reader.finish();
  if (offset >= every) {
    throw UsageError(place, cat("offset ", offset, " with every ", every, "; an offset below every is expected"));
  }
  std::vector<int> chosen;
  for (int64_t layer = offset; layer < layers; layer += every) chosen.push_back(static_cast<int>(layer));
  if (chosen.empty()) {
    throw UsageError(place, cat("every ", every, ", offset ", offset, " chooses none of ", layers, " layers"));
  }
  return chosen;
}

std::vector<int> listed_layers(const Json::Array& list, int layers, const std::string& place) {
  std::vector<int> chosen;
  std::vector<bool> taken(layers, false);
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string here = cat(place, ".", i);
    if (!list[i].is_int() || list[i].as_int() < 0 || list[i].as_int() >= layers) {
      throw UsageError(here,
                       cat("is ", printable(list[i].dump()), "; a layer number in [0, ", layers - 1, "] is expected"));
    }
    const int layer = static_cast<int>(list[i].as_int());
    if (taken[layer]) throw UsageError(here, cat("layer ", layer, " stands twice; each layer once is expected"));
    taken[layer] = true;
    chosen.push_back(layer);
  }
  if (chosen.empty()) throw UsageError(place, "is an empty list; at least one layer is expected");
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

std::vector<int> resolve_layers(const Json& selection, int layers, const std::string& place) {
  if (selection.is_object()) return every_nth(selection, layers, place);
  if (selection.is_array()) return listed_layers(selection.as_array(), layers, place);
  if (selection == Json("all")) {
    std::vector<int> chosen(layers);
    std::iota(chosen.begin(), chosen.end(), 0);
    return chosen;
  }
  throw UsageError(place, cat("is ", printable(selection.dump()),
                              "; {\"every\": n, \"offset\": o}, a list of layer numbers or \"all\" is expected"));
}

std::vector<int> assign_layers(const Json& sparse_ffn, int layers, const std::string& place) {
  std::vector<int> entry_of(layers, -1);
  for (size_t i = 0; i < sparse_ffn.as_array().size(); ++i) {
    const Json* selection = sparse_ffn.as_array()[i].find("layers");
    const std::string here = cat(place, ".", i, ".layers");
    if (selection == nullptr) throw UsageError(here, "is missing; the layers that take this entry are required here");
    for (const int layer : resolve_layers(*selection, layers, here)) {
      if (entry_of[layer] >= 0) {
        throw UsageError(here, cat("layer ", layer, " is already chosen by ", place, ".", entry_of[layer],
                                   ".layers; entries that do not overlap are expected"));
      }
      entry_of[layer] = static_cast<int>(i);
    }
  }
  return entry_of;
}

}  // namespace sffn
