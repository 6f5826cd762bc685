// Which GPU of its node a rank takes.
#pragma once
#include <string>
#include <vector>

namespace sffn {

// visible[r]: the identities of the GPUs that rank r of the node sees, in its own numbering. Returns the number of
// `rank`'s: its position among the ranks that see the same list. So a launcher may show every GPU to all ranks, or to
// each rank its own. Throws UsageError where a rank is left without a GPU of its own, saying what would be right.
int gpu_of_rank(const std::vector<std::vector<std::string>>& visible, int rank);

// The same, but as for NCCL ranks of different NCCL_HOSTID count as being on different nodes: they may share a GPU.
// host_ids[r]: that of rank r.
int gpu_of_rank(std::vector<std::vector<std::string>> visible, const std::vector<std::string>& host_ids, int rank);

}  // namespace sffn
