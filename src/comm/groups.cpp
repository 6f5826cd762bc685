#include "comm/groups.h"

namespace sffn {

void check_expert_ranks(int ranks, int64_t expert_ranks) {
  if (ranks % expert_ranks == 0) return;
  throw UsageError("parallel.expert",
                   cat("is ", expert_ranks, ", which does not divide the ", ranks, ranks == 1 ? " rank" : " ranks",
                       " of the run; use a divisor of it, or another number of ranks"));
}

RankGroups::RankGroups(Communicator& ranks, int64_t expert_ranks) {
  check_expert_ranks(ranks.size(), expert_ranks);
  const int spread = static_cast<int>(expert_ranks), rank = ranks.rank();
  replicas_ = &ranks;
  if (spread == 1) {
    expert_ = make_self_communicator();
    return;
  }
  expert_ = ranks.split(rank / spread, rank);
  own_replicas_ = ranks.split(rank % spread, rank);
  replicas_ = own_replicas_.get();
}

}  // namespace sffn
