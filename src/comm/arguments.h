// What every communicator demands of the arguments of a collective, checked in one place.
#pragma once
#include "core/tensor.h"

#include <cstdint>
#include <span>
#include <vector>

namespace sffn {

// Bytes of one row of the outermost dimension.
size_t row_bytes(const Tensor& tensor);
// Byte offset of each rank's rows, and the total as the last element.
std::vector<size_t> row_offsets(std::span<const int64_t> counts, size_t bytes_per_row);

// RunError unless the shapes, dtypes and devices of a collective fit the counts; see communicator.h.
void check_all_gather(const Tensor& all, const Tensor& mine, std::span<const int64_t> counts, int rank, int size);
void check_all_to_all(const Tensor& recv, std::span<const int64_t> recv_counts, const Tensor& send,
                      std::span<const int64_t> send_counts, int rank, int size);
void check_root(int root, int size);

// True when the collective moves nothing: the meta device. RunError unless the tensor is there or on `here`.
bool moves_nothing(const Tensor& tensor, Device here = Device::cpu());

}  // namespace sffn
