// What a rank sends to others, counted as a planned communicator counts it without sending.
#pragma once
#include "comm/forwarding.h"
#include "comm/planned.h"

#include <algorithm>
#include <memory>
#include <span>

namespace sffn::test {

class CountingCommunicator final : public ForwardingCommunicator {
 public:
  explicit CountingCommunicator(Communicator& inner) : ForwardingCommunicator(inner) {}
  Traffic traffic;
  int64_t calls = 0;  // of those below

  void all_gather(Stream& stream, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    count_gather(mine, counts);
    ForwardingCommunicator::all_gather(stream, all, mine, counts);
  }
  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    count_exchange(send, send_counts);
    ForwardingCommunicator::all_to_all(stream, recv, recv_counts, send, send_counts);
  }
  std::unique_ptr<Transfer> begin_all_gather(Stream& stream, Tensor all, const Tensor& mine,
                                             std::span<const int64_t> counts) override {
    count_gather(mine, counts);
    return ForwardingCommunicator::begin_all_gather(stream, all, mine, counts);
  }
  std::unique_ptr<Transfer> begin_all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts,
                                             const Tensor& send, std::span<const int64_t> send_counts) override {
    count_exchange(send, send_counts);
    return ForwardingCommunicator::begin_all_to_all(stream, recv, recv_counts, send, send_counts);
  }

 private:
  void count_gather(const Tensor& mine, std::span<const int64_t> counts) {
    ++calls;
    const bool equal = std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count == counts[0]; });
    for (int peer = 1; peer < size(); ++peer) {
      (equal ? traffic.all_gather : traffic.uneven_all_gather) += {1, static_cast<double>(mine.bytes())};
    }
  }
  void count_exchange(const Tensor& send, std::span<const int64_t> send_counts) {
    ++calls;
    for (int peer = 0; peer < size(); ++peer) {
      const int64_t rows = send_counts[static_cast<size_t>(peer)];
      if (peer == rank() || rows == 0) continue;
      traffic.all_to_all += {1, static_cast<double>(send.slice(0, rows).bytes())};
    }
  }
};

}  // namespace sffn::test
