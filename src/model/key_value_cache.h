#pragma once
#include "config/config.h"
#include "core/buffer.h"

#include <cstdint>

namespace sffn {

// Keys and values of the tokens that were fed so far, for generation token by token; all sequences are equally long.
class KeyValueCache {
 public:
  // For `batch` sequences of at most `capacity` tokens.
  KeyValueCache(DeviceRuntime& runtime, const Config& config, int64_t batch, int64_t capacity)
      : layers_(config.model.layers),
        batch_(batch),
        capacity_(capacity),
        row_(2 * config.model.kv_heads * config.model.head_dim),
        dtype_(config.dtype()),
        memory_(runtime, {layers_, batch, capacity, row_}, dtype_) {}

  // [B, capacity, 2·H_kv·d_h]: a row is the key heads, then the value heads of a token.
  Tensor layer(int64_t index) const {
    return memory_.tensor({layers_, batch_, capacity_, row_}, dtype_).slice(index, 1).view({batch_, capacity_, row_});
  }
  int64_t batch() const { return batch_; }
  int64_t capacity() const { return capacity_; }
  int64_t length() const { return length_; }  // tokens of each sequence that are in it
  void advance(int64_t tokens) { length_ += tokens; }
  void clear() { length_ = 0; }
  size_t bytes() const { return memory_.bytes(); }

 private:
  int64_t layers_, batch_, capacity_, row_, length_ = 0;
  DType dtype_;
  Buffer memory_;
};

}  // namespace sffn
