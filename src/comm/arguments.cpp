#include "comm/arguments.h"

namespace sffn {
namespace {

void check_counts(const Tensor& tensor, std::span<const int64_t> counts, int size, const char* what) {
  SFFN_CHECK(tensor.defined() && tensor.shape().rank() >= 1, what, " is absent or has no rows");
  SFFN_CHECK(static_cast<int>(counts.size()) == size, counts.size(), " counts of ", what, " for ", size, " ranks");
  int64_t sum = 0;
  for (const int64_t count : counts) {
    SFFN_CHECK(count >= 0, "a count of ", what, " is ", count);
    sum += count;
  }
  SFFN_CHECK(sum == tensor.shape()[0], "the counts of ", what, " sum to ", sum, ", its shape is ",
             tensor.shape().str());
}

void check_same_rows(const Tensor& a, const Tensor& b) {
  SFFN_CHECK(a.dtype() == b.dtype() && a.device() == b.device(), "a collective from ", name_of(b.dtype()), " on ",
             b.device().str(), " to ", name_of(a.dtype()), " on ", a.device().str());
  SFFN_CHECK(row_bytes(a) == row_bytes(b), "rows differ: ", b.shape().str(), " to ", a.shape().str());
}

bool overlap(const std::byte* a, size_t a_bytes, const std::byte* b, size_t b_bytes) {
  return a_bytes > 0 && b_bytes > 0 && a < b + b_bytes && b < a + a_bytes;
}

const std::byte* begin(const Tensor& tensor) { return static_cast<const std::byte*>(tensor.raw()); }

}  // namespace

size_t row_bytes(const Tensor& tensor) {
  size_t bytes = size_of(tensor.dtype());
  for (int i = 1; i < tensor.shape().rank(); ++i) bytes *= static_cast<size_t>(tensor.shape()[i]);
  return bytes;
}

std::vector<size_t> row_offsets(std::span<const int64_t> counts, size_t bytes_per_row) {
  std::vector<size_t> offsets(counts.size() + 1, 0);
  for (size_t i = 0; i < counts.size(); ++i)
    offsets[i + 1] = offsets[i] + static_cast<size_t>(counts[i]) * bytes_per_row;
  return offsets;
}

void check_all_gather(const Tensor& all, const Tensor& mine, std::span<const int64_t> counts, int rank, int size) {
  check_counts(all, counts, size, "all");
  SFFN_CHECK(mine.defined() && mine.shape().rank() >= 1 && mine.shape()[0] == counts[static_cast<size_t>(rank)],
             "rank ", rank, " gives ", mine.defined() ? mine.shape().str() : "nothing", ", its count is ",
             counts[static_cast<size_t>(rank)]);
  check_same_rows(all, mine);
  const std::byte* place = begin(all) + row_offsets(counts, row_bytes(all))[static_cast<size_t>(rank)];
  SFFN_CHECK(begin(mine) == place || !overlap(begin(all), all.bytes(), begin(mine), mine.bytes()), "rank ", rank,
             "'s part lies inside `all`, but not at its own place");
}

void check_all_to_all(const Tensor& recv, std::span<const int64_t> recv_counts, const Tensor& send,
                      std::span<const int64_t> send_counts, int rank, int size) {
  check_counts(recv, recv_counts, size, "recv");
  check_counts(send, send_counts, size, "send");
  check_same_rows(recv, send);
  const auto self = static_cast<size_t>(rank);
  SFFN_CHECK(send_counts[self] == recv_counts[self], "rank ", rank, " sends itself ", send_counts[self],
             " rows and expects ", recv_counts[self]);
  SFFN_CHECK(!overlap(begin(recv), recv.bytes(), begin(send), send.bytes()), "send and recv overlap");
}

void check_root(int root, int size) { SFFN_CHECK(root >= 0 && root < size, "root ", root, " of ", size, " ranks"); }

bool moves_nothing(const Tensor& tensor, Device here) {
  if (tensor.device().kind == Device::Kind::kMeta) return true;
  SFFN_CHECK(tensor.device() == here, "this communicator moves tensors on ", here.str(), ", not on ",
             tensor.device().str());
  return false;
}

}  // namespace sffn
