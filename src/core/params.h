// Named parameters in flat buffers. Matrices come first, then vectors and fp32 routers: in bf16 the matrices are one
// bf16 buffer, the vectors one fp32 buffer; in other precisions both have the same type. Gradients are one flat buffer
// of the accumulate type over the same index space, so that the optimizer, the gradient tree and ZeRO-1 see ranges.
#pragma once
#include "core/buffer.h"
#include "core/random.h"
#include "core/tensor.h"

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

namespace sffn {

enum class Storage : uint8_t { kMatrix, kVector };  // kVector stays fp32 in bf16 mode (norms, biases, routers)

struct Init {
  enum class Kind : uint8_t { kConstant, kNormal, kTruncatedNormal };
  Kind kind = Kind::kConstant;
  double value = 0;         // the constant, or the standard deviation
  bool equal_rows = false;  // rows are then scaled to one norm; the matrix keeps its standard deviation
};

struct RowRange {
  int64_t first = 0, count = 0;
};

// Elements [at, at + count) of a parameter in memory are [first, first + count) of the checkpoint's tensor.
struct ElementRun {
  int64_t at = 0, first = 0, count = 0;
};

struct ParamSpec {
  std::string name;  // as in checkpoints
  Shape shape;       // as in checkpoints
  Init init = {};
  Storage storage = Storage::kMatrix;
  int64_t parts = 1;        // of `shape`'s rows, as many in each, one part after another
  RowRange held = {};       // rows of every part on this rank; a count of 0: all of them
  int64_t block_rows = 0;   // of one block of a sparse layer; 0: not a table of blocks
  int64_t padded_rows = 0;  // rows in memory when more than shape[0]: they stay zero and are never saved
  bool decay() const { return shape.rank() >= 2; }  // weight decay acts on tensors of rank >= 2, embeddings included
  int64_t held_rows() const { return held.count > 0 ? parts * held.count : shape[0]; }
  int64_t row_elements() const { return shape.numel() / shape[0]; }
  int64_t held_elements() const { return held_rows() * row_elements(); }
  // Where in the checkpoint's tensor the elements on this rank are, in the order of both.
  std::vector<ElementRun> runs() const;
};

struct Param {
  ParamSpec spec;
  Tensor value;        // shape in memory, padded rows included
  Tensor grad;         // same shape, accumulate type; repointed by ParamStore::use_gradients
  int64_t offset = 0;  // first element in the flat index space
  int64_t count = 0;   // elements in memory, padded rows included
};

// What a layer keeps from step to step without training it, the same on every rank; zero until its layer sets it.
struct StateSpec {
  enum class Kind : uint8_t { kCounter, kVector, kIndices };  // f64; the accumulate type; i32
  std::string name;
  Shape shape;
  Kind kind = Kind::kVector;
  bool saved = false;  // part of checkpoints, by name
};

struct State {
  StateSpec spec;
  Tensor value;
};

// A piece of one parameter in the flat index space; at most kChunk elements, never across parameters. Norms are taken
// and optimizer ranges are cut by chunks, so that no sum depends on how many ranks share the work.
struct ParamChunk {
  const Param* param = nullptr;
  int64_t offset = 0, count = 0;
};

class ParamStore {
 public:
  static constexpr int64_t kChunk = 16384;
  static constexpr int64_t kAlign = 64;

  // While the model is built; the reference stays valid and its tensors are set by allocate().
  Param& add(ParamSpec spec);
  // Allocates values of `dtype` (f32 | bf16 | f64 | c128) and state; gradients are bound by use_gradients.
  void allocate(DeviceRuntime& runtime, DType dtype);
  // Points every param.grad into `flat` [flat_size()] of the accumulate type.
  void use_gradients(const Tensor& flat);

  // As add(), for state.
  State& add_state(StateSpec spec);
  std::deque<State>& states() { return states_; }

  std::deque<Param>& all() { return params_; }
  const std::deque<Param>& all() const { return params_; }
  Param* find(const std::string& name);
  DType dtype() const { return dtype_; }
  int64_t flat_size() const { return flat_size_; }      // elements, gaps and padding included
  int64_t matrix_size() const { return matrix_size_; }  // flat indices [0, matrix_size) are matrices
  int64_t parameter_count() const;                      // as in checkpoints: without padded rows
  Tensor flat_matrices() const { return matrices_.tensor({matrix_size_}, dtype_); }
  Tensor flat_vectors() const { return vectors_.tensor({flat_size_ - matrix_size_}, accumulate_type(dtype_)); }
  const std::vector<ParamChunk>& chunks() const { return chunks_; }  // in flat order
  size_t bytes() const { return matrices_.bytes() + vectors_.bytes(); }
  size_t state_bytes() const;

 private:
  void lay_out();
  std::deque<Param> params_;
  std::deque<State> states_;
  std::vector<Buffer> state_memory_;
  std::vector<ParamChunk> chunks_;
  DType dtype_ = DType::kF32;
  int64_t flat_size_ = 0, matrix_size_ = 0;
  Buffer matrices_, vectors_;
};

}  // namespace sffn
