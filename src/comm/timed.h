// How long a rank's device waits for the calls of a communicator: communication that nothing hides.
#pragma once
#include "comm/forwarding.h"
#include "kernels/ops.h"

#include <chrono>
#include <utility>

namespace sffn {

class TimedCommunicator final : public ForwardingCommunicator {
 public:
  // clock [2] f64, on the device of the streams: ops::start_clock.
  TimedCommunicator(Communicator& inner, Tensor clock) : ForwardingCommunicator(inner), clock_(std::move(clock)) {}
  // What the host waited for, itself, since the last call of this.
  double take_host_milliseconds() { return std::exchange(host_milliseconds_, 0.0); }

  void all_gather(Stream& stream, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    timed(stream, clock_, [&] { ForwardingCommunicator::all_gather(stream, all, mine, counts); });
  }
  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    timed(stream, clock_, [&] { ForwardingCommunicator::all_to_all(stream, recv, recv_counts, send, send_counts); });
  }
  std::unique_ptr<Transfer> begin_all_gather(Stream& stream, Tensor all, const Tensor& mine,
                                             std::span<const int64_t> counts) override {
    return begin(stream, [&] { return ForwardingCommunicator::begin_all_gather(stream, all, mine, counts); });
  }
  std::unique_ptr<Transfer> begin_all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts,
                                             const Tensor& send, std::span<const int64_t> send_counts) override {
    return begin(
        stream, [&] { return ForwardingCommunicator::begin_all_to_all(stream, recv, recv_counts, send, send_counts); });
  }
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    const auto start = std::chrono::steady_clock::now();
    ForwardingCommunicator::all_gather_bytes(all, mine, bytes);
    host_milliseconds_ += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  template <class F>
  static void timed(Stream& stream, const Tensor& clock, F&& call) {
    ops::start_clock(stream, clock);
    call();
    ops::stop_clock(stream, clock);
  }

  class TimedTransfer final : public Transfer {
   public:
    TimedTransfer(std::unique_ptr<Transfer> inner, Tensor clock) : inner_(std::move(inner)), clock_(std::move(clock)) {}
    void finish(Stream& stream) override {
      timed(stream, clock_, [&] { inner_->finish(stream); });
    }

   private:
    std::unique_ptr<Transfer> inner_;
    Tensor clock_;
  };

  template <class F>
  std::unique_ptr<Transfer> begin(Stream& stream, F&& call) {
    std::unique_ptr<Transfer> begun;
    timed(stream, clock_, [&] { begun = call(); });
    return std::make_unique<TimedTransfer>(std::move(begun), clock_);
  }

  Tensor clock_;
  double host_milliseconds_ = 0;
};

}  // namespace sffn
