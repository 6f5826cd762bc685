// Balanced assignment of tokens to blocks by auction with ε-scaling, the places of a block being similar objects
// (Bertsekas & Castañon, The auction algorithm for the transportation problem, Annals of Operations Research 20, 1989).
//
// Every block has c = ⌈n/B⌉ places with a price each; the price of a block is that of its cheapest place. A token takes
// the cheapest place of the block with the largest logit - price and raises its price by the margin over the best other
// block, plus ε; who had the place bids next. At the end no token would gain more than ε elsewhere, so the sum of the
// logits is within B·c·ε of the largest. That needs every place to be taken: B·c - n bidders to whom all blocks are
// alike fill up. Prices of a coarser ε are a good start for a finer one. A phase of one ε ends after `rounds` bids a
// place: who has none then takes the first free one, so that the work is bounded whatever the logits.
#pragma once
#include "kernels/ref/scalar.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace sffn::ref {

// The assignment of one group. Logits are bids in double: prices must rise by ε beside a logit.
template <class T>
class Auction {
 public:
  Auction(const T* logits, int64_t tokens, int64_t blocks, double epsilon, int64_t rounds)
      : logits_(logits),
        tokens_(tokens),
        blocks_(blocks),
        capacity_((tokens + blocks - 1) / blocks),
        rounds_(rounds),
        price_(static_cast<size_t>(blocks), 0.0),
        places_(static_cast<size_t>(blocks * capacity_)) {
    find_range();
    target_ = std::max(epsilon, 0x1p-32 * std::max(std::abs(low_), std::abs(high_)));
  }

  // chosen[t] = block of token t
  void run(int32_t* chosen) {
    double epsilon = std::max(target_, (high_ - low_) / 4);
    while (true) {
      assign(epsilon);
      if (epsilon <= target_) break;
      epsilon = std::max(target_, epsilon / 5);
    }
    for (int64_t i = 0; i < blocks_; ++i) {
      for (int64_t place = i * capacity_; place < (i + 1) * capacity_; ++place) {
        if (places_[place].token < tokens_) chosen[places_[place].token] = static_cast<int32_t>(i);
      }
    }
  }

 private:
  static constexpr int64_t kNobody = std::numeric_limits<int64_t>::max();
  struct Place {
    double price;
    int64_t token;
    // Order of a heap whose first place is the cheapest; among equals a free one, then that of the last token.
    bool operator<(const Place& other) const {
      return price != other.price ? price > other.price : token < other.token;
    }
  };

  static bool is_number(double x) { return std::abs(x) <= static_cast<double>(std::numeric_limits<float>::max()); }

  // low_ and high_ stand for -∞ (and NaN) and +∞: no sum of finite logits makes up for one of them.
  void find_range() {
    bool any = false, all = true;
    for (int64_t c = 0; c < tokens_ * blocks_; ++c) {
      const auto x = static_cast<double>(real(logits_[c]));
      if (!is_number(x)) {
        all = false;
        continue;
      }
      low_ = any ? std::min(low_, x) : x;
      high_ = any ? std::max(high_, x) : x;
      any = true;
    }
    if (all) return;
    const double beyond = (high_ - low_ + 1) * static_cast<double>(tokens_ + 1);
    low_ -= beyond, high_ += beyond;
  }

  double worth(int64_t token, int64_t block) const {
    if (token >= tokens_) return 0;
    const auto x = static_cast<double>(real(logits_[token * blocks_ + block]));
    if (is_number(x)) return x;
    return x > 0 ? high_ : low_;
  }

  // All bidders bid in order until everybody has a place or the bids are used up.
  void assign(double epsilon) {
    int64_t bids = rounds_ * blocks_ * capacity_;
    for (int64_t i = 0; i < blocks_; ++i) {
      std::fill_n(places_.begin() + i * capacity_, capacity_, Place{price_[i], kNobody});
    }
    for (int64_t t = 0; t < blocks_ * capacity_; ++t) {
      for (int64_t bidder = t; bidder != kNobody;) bidder = bids-- > 0 ? bid(bidder, epsilon) : take_free(bidder);
    }
  }

  // There is one: not all bidders had their turn.
  int64_t take_free(int64_t token) {
    std::find_if(places_.begin(), places_.end(), [](const Place& place) { return place.token == kNobody; })->token =
        token;
    return kNobody;
  }

  // Returns who loses the place, or kNobody.
  int64_t bid(int64_t token, double epsilon) {
    constexpr double kNone = -std::numeric_limits<double>::infinity();
    double best = kNone, other = kNone;
    int64_t block = 0;
    for (int64_t i = 0; i < blocks_; ++i) {
      const double value = worth(token, i) - price_[i];
      if (value > best) {
        other = best, best = value, block = i;
      } else if (value > other) {
        other = value;
      }
    }
    const double margin = blocks_ > 1 ? best - other : 0;
    const auto first = places_.begin() + block * capacity_, last = first + capacity_;
    std::pop_heap(first, last);
    Place& cheapest = *(last - 1);
    const int64_t loser = cheapest.token;
    cheapest = {cheapest.price + margin + epsilon, token};
    std::push_heap(first, last);
    price_[block] = first->price;
    return loser;
  }

  const T* logits_;
  int64_t tokens_, blocks_, capacity_, rounds_;
  double low_ = 0, high_ = 0, target_ = 0;
  std::vector<double> price_;  // of each block
  std::vector<Place> places_;  // [B, c], each block a heap
};

}  // namespace sffn::ref
