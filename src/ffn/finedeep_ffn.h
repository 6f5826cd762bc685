// The layer of methods/finedeep.cpp.
#pragma once
#include "ffn/registry.h"

#include <cstdint>
#include <memory>

namespace sffn {

enum class FinedeepRouter : uint8_t { kOutputSigmoid, kInputSigmoid, kSoftmax, kNone };

struct FinedeepConfig {
  int64_t d_ff = 0, sub_layers = 1, experts = 1;  // M sub-layers of K experts
  FinedeepRouter router = FinedeepRouter::kOutputSigmoid;
  bool sub_layer_norm = true;

  bool weighs_inputs() const { return router == FinedeepRouter::kInputSigmoid || router == FinedeepRouter::kSoftmax; }
  BlockShape shape() const {
    return {.cells = d_ff,
            .block_size = d_ff / (sub_layers * experts),
            .sub_layers = sub_layers,
            .per_token = sub_layers * experts,
            .d_ff = d_ff,
            .activation = Activation::kSilu,
            .gated = true,
            .bias = false};
  }
};

std::unique_ptr<FfnLayer> make_finedeep(const FfnBuild&, const FinedeepConfig&, const FfnCost&);

}  // namespace sffn
