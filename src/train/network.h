// What links between ranks carry, what a rank reaches, and how long a step's collectives take by it: a message of n
// bytes takes latency + n / bandwidth, and a rank sends its messages one after another (the alpha-beta model).
#pragma once
#include "comm/planned.h"
#include "core/json.h"

#include <cstdint>
#include <optional>
#include <string>

namespace sffn {

// Of one rank, in one direction: seconds of a message beside its bytes, and bytes a second.
struct Link {
  double latency = 0, bandwidth = 0;
};

struct Network {
  int64_t per_node = 1;     // ranks
  Link node;                // to a rank of the same node
  std::optional<Link> net;  // to a rank of another node; none: there is one node
};
// "per_node=8,node_gbs=450,node_us=2,net_gbs=50,net_us=5", GB/s and µs; the last two only together, and only where
// there are several nodes. UsageError "--network: …" for anything else.
Network parse_network(const std::string& text);
std::string to_text(const Network&);  // the same, to four digits

// What a rank reaches in a step: FLOPs a second of a pass, bytes a second of what streams through memory.
struct Rates {
  double flops = 0, bandwidth = 0;
};
// "tflops=470,gbs=3000". UsageError "--rates: …" for anything else.
Rates parse_rates(const std::string& text);
std::string to_text(const Rates&);  // the same, to four digits

// The ranks of a collective: how many, and how many of them share a node.
struct RankSet {
  int64_t ranks = 1, on_node = 1;
};
// Every stride-th rank in rank order, which fills one node after the other. UsageError where they are on several nodes
// and the network does not say how these are linked.
RankSet spaced_ranks(const Network&, int64_t ranks, int64_t stride);

// To each other rank a message of its own: of R ranks, P on a node, (P-1)/(R-1) of what is sent stays there. The links
// within a node and those out of it carry their shares at the same time.
double pairwise_seconds(const Network&, const RankSet&, const Sent&);
// R - 1 messages to the next rank of a ring: over several nodes (P-1)/P of the hops stay on a node. P rings at once
// begin at the P ranks of a node, so that each uses its link out of it.
double ring_seconds(const Network&, const RankSet&, const Sent&);
// All of it: uneven all-gathers go round a ring or, on GPUs, pair by pair.
double traffic_seconds(const Network&, const RankSet&, const Traffic&, bool on_gpus);

// One chunk of tokens on its way to the blocks of other ranks and back, in seconds.
struct Trip {
  double bring = 0, compute = 0, give_back = 0;
};
// What the trips of equal chunks add to their computing, where a chunk is brought and another goes back while one is
// computed: the first bring and the last return whole, and what is longer than the chunk it hides behind.
double exposed_seconds(const Trip& chunk, int64_t chunks);

}  // namespace sffn
