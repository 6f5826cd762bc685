#include "comm/gpu_of_rank.h"

#include "support/catch.h"
#include "support/error_of.h"

using namespace sffn;
using namespace sffn::test;

namespace {

using Views = std::vector<std::vector<std::string>>;

std::vector<int> gpus_of(const Views& views) {
  std::vector<int> gpus;
  for (size_t rank = 0; rank < views.size(); ++rank) gpus.push_back(gpu_of_rank(views, static_cast<int>(rank)));
  return gpus;
}

}  // namespace

// Kills: the rank in the job in place of that on the node; a rank that takes a GPU which it cannot see.
TEST_CASE("ranks that see all GPUs of a node take them in order, ranks that see their own take that", "[comm]") {
  CHECK(gpus_of({{"a"}}) == std::vector{0});
  CHECK(gpus_of({{"a", "b", "c"}, {"a", "b", "c"}}) == std::vector{0, 1});
  CHECK(gpus_of({{"a"}, {"b"}, {"c"}}) == std::vector{0, 0, 0});
  CHECK(gpus_of({{"a", "b"}, {"c", "d"}, {"a", "b"}, {"c", "d"}}) == std::vector{0, 0, 1, 1});
}

// Kills: two ranks on one GPU; an error on some ranks only, so that the others wait for them.
TEST_CASE("more ranks on a node than GPUs is a usage error of every rank, with the numbers and the way out", "[comm]") {
  const Views views = {{"a", "b"}, {"a", "b"}, {"a", "b"}};
  for (int rank = 0; rank < 3; ++rank) {
    const Caught caught = error_of([&] { gpu_of_rank(views, rank); });
    INFO(caught.what);
    CHECK(caught.code == ExitCode::kUsage);
    CHECK(caught.says("3 ranks of a node for 2 GPUs"));
    CHECK(caught.says("ppr:2:node"));
    CHECK(caught.says("--backend cpu"));
  }
  CHECK(error_of([&] { gpu_of_rank({{"a"}, {}}, 0); }).says("1 rank of a node for 0 GPUs"));
}

// Kills: lists that overlap taken for different GPUs.
TEST_CASE("two ranks that would share a GPU are named", "[comm]") {
  const Caught caught = error_of([] { gpu_of_rank({{"a", "b"}, {"b", "c"}, {"b", "c"}, {"a", "b"}}, 0); });
  CHECK(caught.code == ExitCode::kUsage);
  CHECK(caught.says("ranks 1 and 3 of a node would share a GPU"));
}

// Kills: a host id that is not looked at, one that is looked at within a view only; ranks of one host id that share a
// GPU; an order of GPUs that depends on the ids.
TEST_CASE("ranks of different NCCL_HOSTID take GPUs as on nodes of their own, those of the same share none", "[comm]") {
  const Views one_gpu = {{"a"}, {"a"}}, two_gpus(4, {"a", "b"});
  CHECK(gpu_of_rank(one_gpu, {"0", "1"}, 0) == 0);
  CHECK(gpu_of_rank(one_gpu, {"0", "1"}, 1) == 0);
  const std::vector<std::string> pairs = {"y", "x", "y", "x"};
  for (int rank = 0; rank < 4; ++rank) CHECK(gpu_of_rank(two_gpus, pairs, rank) == rank / 2);
  CHECK(gpu_of_rank({{"a", "b"}, {"b", "a"}}, {"0", "1"}, 1) == 0);
  for (const char* same : {"", "node"}) {
    const Caught caught = error_of([&] { gpu_of_rank(one_gpu, {same, same}, 1); });
    CHECK(caught.code == ExitCode::kUsage);
    CHECK(caught.says("2 ranks of a node for 1 GPU"));
  }
}
