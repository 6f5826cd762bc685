// How long a rank spends in the calls of a communicator: on a device whose work is done when a call returns, that is
// communication which nothing hides.
#pragma once
#include "comm/forwarding.h"

#include <chrono>
#include <utility>

namespace sffn {

class TimedCommunicator final : public ForwardingCommunicator {
 public:
  explicit TimedCommunicator(Communicator& inner) : ForwardingCommunicator(inner) {}
  // Since the last call of it.
  double take_milliseconds() { return std::exchange(milliseconds_, 0.0); }

  void all_gather(Stream& stream, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    timed([&] { ForwardingCommunicator::all_gather(stream, all, mine, counts); });
  }
  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    timed([&] { ForwardingCommunicator::all_to_all(stream, recv, recv_counts, send, send_counts); });
  }
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    timed([&] { ForwardingCommunicator::all_gather_bytes(all, mine, bytes); });
  }

 private:
  template <class F>
  void timed(F&& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    milliseconds_ += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

  double milliseconds_ = 0;
};

}  // namespace sffn
