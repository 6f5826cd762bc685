#include "train/network.h"

#include "support/catch.h"
#include "support/error_of.h"

using namespace sffn;

namespace {

// 4 ranks a node; 10 GB/s and 1 µs within it, 2 GB/s and 8 µs out of it.
const Network kNodes{.per_node = 4, .node = {1e-6, 10e9}, .net = Link{8e-6, 2e9}};
constexpr double kTight = 1e-12;

}  // namespace

// Kills: a latency counted once a call; bytes that leave the node at the speed within it; the sum of both links' times
// for their larger one.
TEST_CASE("pairs of ranks exchange over the links within a node and out of it at the same time", "[network]") {
  // 3 of 7 peers are on the node: of 14 messages and 7 MB, 6 and 3 MB stay there.
  const double expected = 6 * 1e-6 + 8 * 8e-6 + 4e6 / 2e9;
  CHECK(pairwise_seconds(kNodes, {8, 4}, {14, 7e6}) == Approx(expected).epsilon(kTight));
  CHECK(pairwise_seconds(kNodes, {4, 4}, {3, 5e6}) == Approx(3e-6 + 5e6 / 10e9).epsilon(kTight));
  CHECK(pairwise_seconds(kNodes, {2, 1}, {1, 4e6}) == Approx(8e-6 + 4e6 / 2e9).epsilon(kTight));
  CHECK(pairwise_seconds(kNodes, {1, 1}, {0, 0}) == 0);
  const Network slow_node{.per_node = 4, .node = {1e-6, 1e9}, .net = Link{8e-6, 2e9}};
  CHECK(pairwise_seconds(slow_node, {8, 4}, {0, 7e6}) == Approx(3e6 / 1e9).epsilon(kTight));
}

// Kills: a ring whose every hop leaves the node, or none; one that takes only one rank's link out of a node.
TEST_CASE("of a ring over several nodes one hop in the ranks of a node leaves it", "[network]") {
  CHECK(ring_seconds(kNodes, {8, 4}, {8, 8e6}) == Approx(6 * 1e-6 + 2 * 8e-6 + 2e6 / 2e9).epsilon(kTight));
  CHECK(ring_seconds(kNodes, {4, 4}, {3, 8e6}) == Approx(3e-6 + 8e6 / 10e9).epsilon(kTight));
  CHECK(ring_seconds(kNodes, {8, 1}, {7, 8e6}) == Approx(7 * 8e-6 + 8e6 / 2e9).epsilon(kTight));
  CHECK(ring_seconds(kNodes, {1, 1}, {0, 0}) == 0);
}

// Kills: uneven parts that go round a ring on GPUs; a kind of call left out.
TEST_CASE("traffic is the sum of its kinds of calls", "[network]") {
  const Sent sent{7, 7e6};
  const double ring = ring_seconds(kNodes, {8, 4}, sent), pairs = pairwise_seconds(kNodes, {8, 4}, sent);
  REQUIRE(pairs > ring);
  const auto seconds = [](const Traffic& traffic, bool on_gpus) {
    return traffic_seconds(kNodes, {8, 4}, traffic, on_gpus);
  };
  for (const bool on_gpus : {false, true}) {
    CHECK(seconds({.all_gather = sent}, on_gpus) == ring);
    CHECK(seconds({.all_to_all = sent}, on_gpus) == pairs);
    CHECK(seconds({.uneven_all_gather = sent}, on_gpus) == (on_gpus ? pairs : ring));
    const Traffic all{.all_gather = sent, .uneven_all_gather = sent, .all_to_all = sent, .broadcast = sent};
    CHECK(seconds(all, on_gpus) == Approx((on_gpus ? 3 : 2) * pairs + (on_gpus ? 1 : 2) * ring).epsilon(kTight));
  }
}

// Kills: replicas counted as neighbours; a group that is said to lie on a node which it fills twice; a link out of the
// node that is made up.
TEST_CASE("ranks a stride apart share a node as far as it reaches", "[network]") {
  const auto on_node = [](int64_t ranks, int64_t stride) { return spaced_ranks(kNodes, ranks, stride).on_node; };
  CHECK(on_node(2, 1) == 2);
  CHECK(on_node(4, 1) == 4);
  CHECK(on_node(16, 1) == 4);
  CHECK(on_node(8, 2) == 2);
  CHECK(on_node(4, 4) == 1);
  CHECK(on_node(4, 16) == 1);
  const Network one_node{.per_node = 4, .node = {1e-6, 10e9}, .net = {}};
  CHECK(spaced_ranks(one_node, 4, 1).on_node == 4);
  CHECK(test::error_of([&] { spaced_ranks(one_node, 8, 1); }).says("net_gbs and net_us are missing"));
  CHECK(test::error_of([&] { spaced_ranks(one_node, 2, 4); }).says("2 of 8 ranks"));
}

// Kills: the first bring or the last return taken for hidden; inner trips hidden whole, or not at all; a chunk more or
// fewer.
TEST_CASE("of chunks that are computed while others travel only the ends and what is longer shows", "[network]") {
  const Trip fast{.bring = 2, .compute = 10, .give_back = 3}, slow{.bring = 5, .compute = 4, .give_back = 7};
  CHECK(exposed_seconds(fast, 0) == 0);
  for (const int64_t chunks : {1, 2, 3, 100}) CHECK(exposed_seconds(fast, chunks) == 5);
  CHECK(exposed_seconds(slow, 1) == 12);
  CHECK(exposed_seconds(slow, 2) == 12 + 1 + 3);
  CHECK(exposed_seconds(slow, 3) == 12 + 1 + 3 + 8);
  CHECK(exposed_seconds(slow, 5) == 12 + 1 + 3 + 3 * 8);
  const Trip idle{.bring = 5, .compute = 0, .give_back = 7};
  CHECK(exposed_seconds(idle, 6) == 6 * 12);  // nothing to hide behind
  double least = exposed_seconds(idle, 6);
  for (const double compute : {1.0, 3.0, 6.0, 12.0, 24.0}) {
    const double exposed = exposed_seconds({.bring = 5, .compute = compute, .give_back = 7}, 6);
    CHECK(exposed < least + (compute > 12 ? kTight : 0));
    least = exposed;
  }
}

// Kills: a unit that is off by a thousand; a text that does not read back.
TEST_CASE("links and rates read back from their text", "[network]") {
  const std::string text = "per_node=8,node_gbs=450,node_us=2.5,net_gbs=50,net_us=5";
  const Network network = parse_network(text);
  CHECK(network.per_node == 8);
  CHECK(network.node.bandwidth == 450e9);
  CHECK(network.node.latency == Approx(2.5e-6).epsilon(kTight));
  REQUIRE(network.net);
  CHECK(network.net->bandwidth == 50e9);
  CHECK(network.net->latency == Approx(5e-6).epsilon(kTight));
  CHECK(to_text(network) == text);
  const std::string alone = "per_node=2,node_gbs=4.5,node_us=1.25";
  CHECK(!parse_network(alone).net);
  CHECK(to_text(parse_network(alone)) == alone);
  const Rates rates = parse_rates("tflops=0.1,gbs=20");
  CHECK(rates.flops == Approx(1e11).epsilon(kTight));
  CHECK(rates.bandwidth == 20e9);
  CHECK(to_text(rates) == "tflops=0.1,gbs=20");
}

// Kills: a figure that is wrong, missing, unknown or given twice, and used all the same.
TEST_CASE("links and rates that cannot be are refused with the key that is wrong", "[network]") {
  const auto refused = [](const auto& parse, const std::string& text, const std::string& says) {
    const test::Caught error = test::error_of([&] { parse(text); });
    INFO(text << ": " << error.what);
    CHECK(error.code == ExitCode::kUsage);
    CHECK(error.says(says));
  };
  const std::string good = "per_node=2,node_gbs=4,node_us=1";
  refused(parse_network, "", "is not key=number");
  refused(parse_network, "fast", "\"fast\" is not key=number");
  refused(parse_network, "per_node", "is not key=number");
  refused(parse_network, good + ",", "is not key=number");
  refused(parse_network, good + ",=3", "is not key=number");
  refused(parse_network, "per_node=2,node_gbs=fast,node_us=1", "\"node_gbs=fast\" is not key=number");
  refused(parse_network, "per_node=2,node_gbs=null,node_us=1", "is not key=number");
  refused(parse_network, "per_node=2,node_us=1", "node_gbs");
  refused(parse_network, "per_node=2,node_gbs=4", "node_us");
  refused(parse_network, "node_gbs=4,node_us=1", "per_node");
  refused(parse_network, "per_node=2,node_gbs=inf,node_us=1", "is not key=number");
  refused(parse_network, "per_node=2,node_gbs=4GB,node_us=1", "is not key=number");
  refused(parse_network, "per_node=0,node_gbs=4,node_us=1", "per_node");
  refused(parse_network, "per_node=1.5,node_gbs=4,node_us=1", "per_node");
  refused(parse_network, "per_node=2,node_gbs=0,node_us=1", "node_gbs");
  refused(parse_network, "per_node=2,node_gbs=4,node_us=-1", "node_us");
  refused(parse_network, "per_node=2,node_gbs=4,node_us=0", "node_us");
  refused(parse_network, good + ",net_gbs=1", "net_us");
  refused(parse_network, good + ",net_us=1", "net_gbs");
  refused(parse_network, good + ",net_gbs=0,net_us=1", "net_gbs");
  refused(parse_network, good + ",node_gb=1", "node_gb");
  refused(parse_network, good + ",node_us=2", "node_us is given twice");
  refused(parse_rates, "tflops=1", "gbs");
  refused(parse_rates, "gbs=1", "tflops");
  refused(parse_rates, "tflops=0,gbs=1", "tflops");
  refused(parse_rates, "tflops=1,gbs=-1", "gbs");
  refused(parse_rates, "tflops=1,gbs=1,mfu=0.5", "mfu");
}
