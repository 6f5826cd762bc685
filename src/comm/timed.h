// Another communicator, and how long this rank spent in its calls: on a device whose work is done when a call returns,
// that is communication which nothing hides.
#pragma once
#include "comm/communicator.h"

#include <chrono>
#include <memory>
#include <span>
#include <utility>

namespace sffn {

class TimedCommunicator final : public Communicator {
 public:
  explicit TimedCommunicator(Communicator& inner) : inner_(inner) {}
  // Since the last call of it.
  double take_milliseconds() { return std::exchange(milliseconds_, 0.0); }

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void all_gather(Stream& stream, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    timed([&] { inner_.all_gather(stream, all, mine, counts); });
  }
  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    timed([&] { inner_.all_to_all(stream, recv, recv_counts, send, send_counts); });
  }
  void broadcast(Stream& stream, Tensor inout, int root) override {
    timed([&] { inner_.broadcast(stream, inout, root); });
  }
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    timed([&] { inner_.all_gather_bytes(all, mine, bytes); });
  }
  void broadcast_bytes(void* data, size_t bytes, int root) override {
    timed([&] { inner_.broadcast_bytes(data, bytes, root); });
  }
  void barrier() override {
    timed([&] { inner_.barrier(); });
  }
  std::unique_ptr<Communicator> split(int color, int key) override { return inner_.split(color, key); }
  void abort(int exit_code) override { inner_.abort(exit_code); }

 private:
  template <class F>
  void timed(F&& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    milliseconds_ += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

  Communicator& inner_;
  double milliseconds_ = 0;
};

}  // namespace sffn
