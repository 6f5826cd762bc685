#pragma once
#include "comm/communicator.h"

#include <memory>

namespace sffn {

// Bytes a rank sends, by kind of call.
struct Traffic {
  double all_gather = 0, all_to_all = 0, broadcast = 0;
  double total() const { return all_gather + all_to_all + broadcast; }
};

// Rank `rank` of `size` that do not exist: tensor calls on the meta device are counted in `traffic`, which must outlive
// the communicator; host values are this rank's own for every rank. For planning only.
std::unique_ptr<Communicator> make_planned_communicator(int rank, int size, Traffic& traffic);

}  // namespace sffn
