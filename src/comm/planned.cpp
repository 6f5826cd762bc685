#include "comm/planned.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace sffn {
namespace {

class PlannedCommunicator final : public Communicator {
 public:
  PlannedCommunicator(int rank, int size, Traffic& traffic) : rank_(rank), size_(size), traffic_(traffic) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(Stream& stream, Tensor, const Tensor& mine, std::span<const int64_t> counts) override {
    check(stream);
    const bool equal = std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count == counts[0]; });
    const double others = size_ - 1;
    (equal ? traffic_.all_gather : traffic_.uneven_all_gather) += {others, static_cast<double>(mine.bytes()) * others};
  }
  void all_to_all(Stream& stream, Tensor, std::span<const int64_t>, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    check(stream);
    const int64_t rows = std::accumulate(send_counts.begin(), send_counts.end(), int64_t{0});
    if (rows == 0) return;
    const double row_bytes = static_cast<double>(send.bytes()) / static_cast<double>(rows);
    const auto parts = std::count_if(send_counts.begin(), send_counts.end(), [](int64_t count) { return count > 0; });
    traffic_.all_to_all += {static_cast<double>(parts - (send_counts[rank_] > 0)),
                            row_bytes * static_cast<double>(rows - send_counts[rank_])};
  }
  void broadcast(Stream& stream, Tensor inout, int root) override {
    check(stream);
    const double others = size_ - 1;
    if (root == rank_) traffic_.broadcast += {others, static_cast<double>(inout.bytes()) * others};
  }
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    for (int r = 0; r < size_; ++r) std::memcpy(static_cast<char*>(all) + r * bytes, mine, bytes);
  }
  void broadcast_bytes(void*, size_t, int) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> split(int, int) override {
    throw RunError("planned communicator", "it cannot be split: make one for each group");
  }
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  static void check(Stream& stream) {
    SFFN_CHECK(stream.is_meta(), "a planned communicator moves no data: its tensors live on the meta device");
  }
  int rank_, size_;
  Traffic& traffic_;
};

}  // namespace

std::unique_ptr<Communicator> make_planned_communicator(int rank, int size, Traffic& traffic) {
  return std::make_unique<PlannedCommunicator>(rank, size, traffic);
}

}  // namespace sffn
