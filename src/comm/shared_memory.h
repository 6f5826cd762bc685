// Memory that all ranks of one host see: what must still be readable of a rank that is stuck or stopped.
#pragma once
#include "comm/communicator.h"

#include <cstddef>

namespace sffn {

class SharedMemory {
 public:
  // Collective over `host`, ranks of one machine. Zero when new. Nothing outlives the processes: the name is gone from
  // the system before the constructor returns. Throws RunError.
  SharedMemory(Communicator& host, size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

}  // namespace sffn
