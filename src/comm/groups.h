// Ranks that share the blocks of sparse layers. Of R ranks, R_e neighbours in rank order form an expert group, so that
// a group lies within a node where ranks are placed node by node:
//   expert group of rank r: the ranks [r/R_e·R_e, r/R_e·R_e + R_e);  replicas of rank r: those of its place r mod R_e
#pragma once
#include "comm/communicator.h"

#include <cstdint>
#include <memory>

namespace sffn {

class RankGroups {
 public:
  // Collective. Throws UsageError, on every rank, where expert_ranks does not divide the ranks.
  RankGroups(Communicator& ranks, int64_t expert_ranks);
  Communicator& expert() { return *expert_; }      // the ranks among which the blocks are spread
  Communicator& replicas() { return *replicas_; }  // the ranks that hold the same blocks

 private:
  std::unique_ptr<Communicator> expert_, own_replicas_;
  Communicator* replicas_;
};

// Throws UsageError where expert_ranks does not divide the ranks.
void check_expert_ranks(int ranks, int64_t expert_ranks);

}  // namespace sffn
