// Rows that were begun to travel come as early or as late as a communicator may bring them.
#pragma once
#include "comm/forwarding.h"

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

namespace sffn::test {

class LateCommunicator : public ForwardingCommunicator {
 public:
  enum class Copied { kAtOnce, kInTheEnd };
  // Each finish() of a transfer takes so long.
  explicit LateCommunicator(Communicator& inner, Copied copied = Copied::kInTheEnd, double milliseconds = 0)
      : ForwardingCommunicator(inner), copied_(copied), milliseconds_(milliseconds) {}
  int64_t under_way() const { return begun_ - finished_; }
  int64_t begun() const { return begun_; }

  std::unique_ptr<Transfer> begin_all_gather(Stream& stream, Tensor all, const Tensor& mine,
                                             std::span<const int64_t> counts) override {
    return begin(stream, all, [this, all, mine, counts = Counts(counts.begin(), counts.end())](Stream& on) {
      all_gather(on, all, mine, counts);
    });
  }
  std::unique_ptr<Transfer> begin_all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts,
                                             const Tensor& send, std::span<const int64_t> send_counts) override {
    return begin(stream, recv,
                 [this, recv, send, recv_counts = Counts(recv_counts.begin(), recv_counts.end()),
                  send_counts = Counts(send_counts.begin(), send_counts.end())](Stream& on) {
                   all_to_all(on, recv, recv_counts, send, send_counts);
                 });
  }

 private:
  using Counts = std::vector<int64_t>;
  using Copy = std::function<void(Stream&)>;
  struct Late final : Transfer {
    Late(LateCommunicator& of, Copy rest) : ranks(of), copy(std::move(rest)) {}
    void finish(Stream& stream) override {
      ++ranks.finished_;
      std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ranks.milliseconds_));
      if (copy) copy(stream);
    }
    LateCommunicator& ranks;
    Copy copy;  // empty: done
  };

  std::unique_ptr<Transfer> begin(Stream& stream, const Tensor& to, Copy copy) {
    ++begun_;
    if (copied_ == Copied::kAtOnce) {
      copy(stream);
      return std::make_unique<Late>(*this, nullptr);
    }
    if (!stream.is_meta() && to.bytes() > 0) std::memset(to.raw(), 0xff, to.bytes());  // NaN, and no block
    return std::make_unique<Late>(*this, std::move(copy));
  }

  const Copied copied_;
  const double milliseconds_;
  int64_t begun_ = 0, finished_ = 0;
};

}  // namespace sffn::test
