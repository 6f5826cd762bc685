// The state of a run as named pieces on the host, for checkpoints.
#pragma once
#include "train/checkpoint/checkpoint.h"
#include "train/engine.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace sffn {

// Tensors of a device on the host: on the CPU their own memory, elsewhere copies.
class HostMirror {
 public:
  explicit HostMirror(Stream& stream) : stream_(&stream) {}
  // Where the tensor's bytes are on the host: read them after fetch(), write them before store().
  void* add(const Tensor& tensor);
  void fetch();
  void store();

 private:
  struct Copy {
    Tensor tensor;
    std::vector<std::byte> bytes;
  };
  Stream* stream_;
  std::deque<Copy> copies_;
};

struct StatePieces {
  std::vector<Piece> parameters;  // fp32 weights, by the names of the model contract
  std::vector<Piece> moments;     // "adam.m:NAME", "adam.v:NAME"
  HostMirror host;                // of all of them
};

enum class StateShare : uint8_t {
  kHeld,   // every element on this rank
  kOwned,  // of those, the share that this rank answers for: over all ranks every element once
};
// Without padded rows.
StatePieces state_pieces(Engine& engine, StateShare share);

// Every tensor of a model whole, in fp32 whatever the model's precision.
struct ModelPieces {
  std::vector<Piece> pieces;
  std::deque<std::vector<float>> values;  // of the parameters, in their order
  HostMirror states;
};
ModelPieces whole_pieces(Stream& stream, ParamStore& params);
// Puts the values into the model, rounded to its types.
void store_values(Stream& stream, ParamStore& params, ModelPieces& whole);

}  // namespace sffn
