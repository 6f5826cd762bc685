#include "comm/tree.h"

#include "comm/tree_check.h"
#include "support/mpi_test.h"

// Kills: an exchange that only works where ranks share memory.
void mpi_test(sffn::Communicator& world) {
  using namespace sffn;
  const auto alone = make_self_communicator();
  for (const int64_t leaves : {1, 4, 7, 12}) {
    const std::vector<float> one = test::summed_gradient<float>(*alone, {{{0, leaves}}, 5003});
    test::TreeCase c{split_leaves(leaves, world.size()), 5003};
    for (const size_t exchange_bytes : {size_t{1}, kTreeExchangeBytes}) {
      c.exchange_bytes = exchange_bytes;
      SFFN_CHECK(test::summed_gradient<float>(world, c) == one, leaves, " leaves sum to other bits than on one rank");
    }
  }
}
