#include "ffn/token_trips.h"

#include "ffn/block_store.h"

#include <cmath>

namespace sffn {

TokenBytes TokenBytes::forward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes) {
  return {.there = static_cast<double>(W * value_bytes),
          .back = static_cast<double>(D * value_bytes),
          .list = static_cast<double>(b * (weighs ? 8 : 4))};
}

TokenBytes TokenBytes::backward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes) {
  return {.there = static_cast<double>((W + D) * value_bytes),
          .back = static_cast<double>(W * value_bytes + (weighs ? 4 * b : 0)),
          .list = static_cast<double>(b * (weighs ? 8 : 4))};
}

// Of b choices a token's lie on R(1 - (1 - 1/R)^b) ranks, of which one in R is its own.
DispatchVolume dispatch_volume(int64_t ranks, int64_t chosen, const TokenBytes& token) {
  const auto R = static_cast<double>(ranks), b = static_cast<double>(chosen);
  const double away = (R - 1) / R, hit = R * (1 - std::pow(1 - 1 / R, b)), one = token.there + token.back + token.list;
  return {.gather = (R - 1) * one,
          .all_to_all = hit * away * one,
          .naive = b * away * (token.there + token.back) + away * token.list};
}

Dispatch choose_dispatch(Dispatch wanted, const DispatchVolume& volume, bool is_cuda) {
  if (wanted != Dispatch::kAuto) return wanted;
  constexpr double kWorthWaiting = 0.9;
  return !is_cuda && volume.all_to_all < kWorthWaiting * volume.gather ? Dispatch::kAllToAll : Dispatch::kGather;
}

TokenTrips trips_of_choices(const BlockShape& shape, bool weighs, int64_t d_model, int64_t value_bytes) {
  const int64_t b = shape.per_token, W = shape.keys ? shape.key_width(d_model) : 0;
  const int64_t x = shape.keys, weights = weighs;
  const auto keys = static_cast<double>(2 * shape.active_cells() * (W + (shape.gated ? d_model : 0)));
  const auto values = static_cast<double>(2 * shape.active_cells() * d_model);
  return {.forward = {.bytes = TokenBytes::forward(W, d_model, b, weighs, value_bytes),
                      .brings = x + 1 + weights,
                      .returns = 1,
                      .flops = keys + values},
          .backward = {.bytes = TokenBytes::backward(W, d_model, b, weighs, value_bytes),
                       .brings = x + 1 + weights + 1,
                       .returns = x + weights,
                       .flops = 3 * keys + 2 * values},
          .used = b};
}

}  // namespace sffn
