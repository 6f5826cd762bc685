#include "comm/gpu_of_rank.h"

#include "core/error.h"

#include <map>

namespace sffn {

int gpu_of_rank(const std::vector<std::vector<std::string>>& visible, int rank) {
  std::map<std::vector<std::string>, size_t> ranks_with;
  for (const auto& view : visible) ++ranks_with[view];
  for (const auto& [view, ranks] : ranks_with) {
    if (ranks <= view.size()) continue;
    throw UsageError("backend", cat("cuda: ", ranks, ranks == 1 ? " rank" : " ranks", " of a node for ", view.size(),
                                    view.size() == 1 ? " GPU" : " GPUs",
                                    ": start at most one rank a GPU (mpirun --map-by ppr:", view.size(),
                                    ":node), or use \"backend\": \"cpu\" (--backend cpu)"));
  }
  std::map<std::string, size_t> owner;
  std::map<std::vector<std::string>, size_t> taken;
  std::vector<int> gpus;
  for (size_t r = 0; r < visible.size(); ++r) {
    const size_t gpu = taken[visible[r]]++;
    const auto [other, is_free] = owner.emplace(visible[r][gpu], r);
    if (!is_free) {
      throw UsageError("backend", cat("cuda: ranks ", other->second, " and ", r,
                                      " of a node would share a GPU: let CUDA_VISIBLE_DEVICES name the same GPUs for "
                                      "all ranks, or different ones"));
    }
    gpus.push_back(static_cast<int>(gpu));
  }
  return gpus[static_cast<size_t>(rank)];
}

int gpu_of_rank(std::vector<std::vector<std::string>> visible, const std::vector<std::string>& host_ids, int rank) {
  for (size_t r = 0; r < visible.size(); ++r) {
    for (std::string& gpu : visible[r]) gpu = host_ids[r] + " " + gpu;
  }
  return gpu_of_rank(visible, rank);
}

}  // namespace sffn
