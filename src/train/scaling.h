#pragma once
#include "config/config.h"
#include "core/json.h"
#include "train/network.h"

#include <optional>
#include <string>

namespace sffn {

struct Scaling {
  int64_t first = 1, last = 1;  // ranks, in doublings
  Network network;
  std::optional<Rates> rates;  // none: what the device is expected to sustain
  std::string device = "cpu";
};

// Weak scaling on paper: the step of the configuration is that of `first` ranks, and each of more ranks does as many
// tokens. For every number of ranks and every layout of the blocks (parallel.expert): time of a step and its parts,
// memory of rank 0, and efficiency, which is the time of one rank alone with the same tokens over that of the step. The
// object is that of `sffn plan --ranks A..B --json`; the keys of a layout are those of `sffn bench step`.
// Nothing hides the exchange of gradients, with their sums and their norm, and of weights; tokens on their way to
// blocks are hidden by computing chunks (exposed_seconds). Choices are taken to be spread evenly, and ranks to be
// equally fast. Throws UsageError: figures that are missing, tokens that `first` ranks cannot share alike, as plan_run.
Json plan_scaling(const Config& config, const Scaling& scaling);

}  // namespace sffn
