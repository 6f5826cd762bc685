// blocks[t] = the block of token t: of n = N/S tokens of a group at most c = ⌈n/B⌉ have the same, and the sum of their
// logits is within B·c·epsilon of the largest possible.                            blocks [N,1] i32  logits [N,B] f32
//
// Auction with similar objects and ε-scaling (Bertsekas & Castañon, Annals of Operations Research 20, 1989). Every
// block has c places with a price each; the price of a block is that of its cheapest place. Tokens bid in order; a
// token takes the cheapest place of the block with the largest logit - price and raises its price by the margin over
// the best other block, plus ε; who had the place bids next. B·c - n bidders to whom all blocks are alike fill up.
//
// A chain of bids has no parallelism but inside a bid: one warp has a group, its lanes share the blocks, then the
// places of the block. A phase has at most `rounds` bids a place; who then has no place takes the first free one. What
// the lanes found goes through shared memory, and every lane joins it in the same order.
#include "kernels/cuda/launch.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int32_t kNobody = 0x7fffffff;
constexpr double kLargestFloat = 0x1.fffffep127, kNone = -0x1.fffffffffffffp1023;

// The best block for a token, and what the best other one is worth.
struct Offer {
  double best, other;
  int64_t block;
};
// The cheapest place of a block, and the price of the next one. Of equal prices a free place comes first, then that of
// the last token.
struct Cheapest {
  double price, next;
  int64_t place;
  int32_t token;
};

struct Auction {
  const float* logits;          // of the group, as what follows
  double *price, *place_price;  // [B], [B, c]
  int32_t* place_token;         // [B, c]
  int64_t tokens, blocks, capacity, rounds;
  double low, high;  // stand for -∞ (and NaN) and +∞: no sum of finite logits makes up for one of them

  __device__ static int lane() { return static_cast<int>(threadIdx.x); }

  __device__ double worth(int64_t token, int64_t block) const {
    if (token >= tokens) return 0;
    const auto x = static_cast<double>(logits[token * blocks + block]);
    if (fabs(x) <= kLargestFloat) return x;
    return x > 0 ? high : low;
  }

  __device__ void find_range() {
    __shared__ double lows[32], highs[32];
    __shared__ bool all[32];
    double least = kLargestFloat, most = -kLargestFloat;  // of none
    bool finite = true;
    for (int64_t c = lane(); c < tokens * blocks; c += 32) {
      const auto x = static_cast<double>(logits[c]);
      const bool number = fabs(x) <= kLargestFloat;
      finite = finite && number;
      if (number && x < least) least = x;
      if (number && x > most) most = x;
    }
    lows[lane()] = least, highs[lane()] = most, all[lane()] = finite;
    __syncwarp();
    for (int l = 0; l < 32; ++l) {
      least = fmin(least, lows[l]), most = fmax(most, highs[l]);
      finite = finite && all[l];
    }
    low = least <= most ? least : 0, high = least <= most ? most : 0;
    if (finite) return;
    const double beyond = (high - low + 1) * static_cast<double>(tokens + 1);
    low -= beyond, high += beyond;
  }

  __device__ Offer find_offer(int64_t token) const {
    __shared__ Offer offers[32];
    Offer own{kNone, kNone, 0};
    for (int64_t i = lane(); i < blocks; i += 32) {
      const double value = worth(token, i) - price[i];
      if (value > own.best) {
        own = {value, own.best, i};
      } else if (value > own.other) {
        own.other = value;
      }
    }
    offers[lane()] = own;
    __syncwarp();
    own = offers[0];
    for (int l = 1; l < 32 && l < blocks; ++l) {
      const Offer& offer = offers[l];
      if (offer.best > own.best || (offer.best == own.best && offer.block < own.block)) {
        own = {offer.best, fmax(offer.other, own.best), offer.block};
      } else {
        own.other = fmax(own.other, offer.best);
      }
    }
    return own;
  }

  __device__ Cheapest find_cheapest(int64_t block) const {
    __shared__ Cheapest places[32];
    Cheapest own{-kNone, -kNone, 0, -1};
    const auto see = [&own](double price_here, double next, int64_t place, int32_t token) {
      if (price_here < own.price || (price_here == own.price && token > own.token)) {
        own = {price_here, fmin(own.price, next), place, token};
      } else {
        own.next = fmin(own.next, price_here);
      }
    };
    for (int64_t place = block * capacity + lane(); place < (block + 1) * capacity; place += 32) {
      see(place_price[place], -kNone, place, place_token[place]);
    }
    places[lane()] = own;
    __syncwarp();
    own = places[0];
    for (int l = 1; l < 32 && l < capacity; ++l) {
      see(places[l].price, places[l].next, places[l].place, places[l].token);
    }
    return own;
  }

  // Returns who loses the place, or kNobody.
  __device__ int32_t bid(int32_t token, double epsilon) const {
    const Offer offer = find_offer(token);
    const double margin = blocks > 1 ? offer.best - offer.other : 0;
    const Cheapest cheapest = find_cheapest(offer.block);
    const double raised = cheapest.price + margin + epsilon;
    if (lane() == 0) {
      place_price[cheapest.place] = raised, place_token[cheapest.place] = token;
      price[offer.block] = fmin(raised, cheapest.next);
    }
    __syncwarp();
    return cheapest.token;
  }

  // The first free place from `from` on, which exists.
  __device__ int64_t find_free(int64_t from) const {
    for (int64_t first = from;; first += 32) {
      const int64_t place = first + lane();
      const bool is_free = place < blocks * capacity && place_token[place] == kNobody;
      if (const unsigned found = __ballot_sync(0xffffffffu, is_free)) return first + __ffs(static_cast<int>(found)) - 1;
    }
  }

  // All bidders bid in order until everybody has a place or the bids are used up.
  __device__ void assign(double epsilon) const {
    for (int64_t place = lane(); place < blocks * capacity; place += 32) {
      place_price[place] = price[place / capacity], place_token[place] = kNobody;
    }
    __syncwarp();
    int64_t bids = rounds * blocks * capacity, taken = 0;  // all places before `taken` are, once bids are used up
    for (int64_t t = 0; t < blocks * capacity; ++t) {
      auto bidder = static_cast<int32_t>(t);
      while (bidder != kNobody && bids > 0) bidder = bid(bidder, epsilon), --bids;
      if (bidder == kNobody) continue;
      taken = find_free(taken);
      __syncwarp();  // all lanes have read
      if (lane() == 0) place_token[taken] = bidder;
      __syncwarp();
    }
  }
};

__global__ void auction_kernel(int32_t* chosen, const float* logits, double* prices, int32_t* place_tokens,
                               int64_t tokens, int64_t blocks, double epsilon, int64_t rounds) {
  const int64_t capacity = (tokens + blocks - 1) / blocks, places = blocks * capacity;
  double* of_group = prices + blockIdx.x * (blocks + places);
  Auction a{logits + blockIdx.x * tokens * blocks,
            of_group,
            of_group + blocks,
            place_tokens + blockIdx.x * places,
            tokens,
            blocks,
            capacity,
            rounds,
            0,
            0};
  for (int64_t i = threadIdx.x; i < blocks; i += 32) a.price[i] = 0;
  a.find_range();
  __syncwarp();
  const double target = fmax(epsilon, 0x1p-32 * fmax(fabs(a.low), fabs(a.high)));
  double step = fmax(target, (a.high - a.low) / 4);
  while (true) {
    a.assign(step);
    if (step <= target) break;
    step = fmax(target, step / 5);
  }
  for (int64_t place = threadIdx.x; place < places; place += 32) {
    const int32_t token = a.place_token[place];
    if (token < tokens) chosen[blockIdx.x * tokens + token] = static_cast<int32_t>(place / capacity);
  }
}

}  // namespace

void auction(Stream& stream, Tensor blocks, const Tensor& logits, int64_t groups, double epsilon, int64_t rounds) {
  const int64_t tokens = logits.rows() / groups, block_count = logits.cols();
  if (tokens == 0) return;
  const int64_t places = (tokens + block_count - 1) / block_count * block_count;
  auto* prices = workspace<double>(stream, groups * (block_count + places) + (groups * places + 1) / 2);
  launch(stream, auction_kernel, {blocks_for(groups, 1), 32}, Work{bytes_of(blocks, logits)}, blocks.data<int32_t>(),
         logits.data<float>(), prices, reinterpret_cast<int32_t*>(prices + groups * (block_count + places)), tokens,
         block_count, epsilon, rounds);
}

}  // namespace sffn::cuda
