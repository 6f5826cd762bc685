// Another communicator, asked for everything: for what adds to some of its calls.
#pragma once
#include "comm/communicator.h"

#include <memory>
#include <span>

namespace sffn {

class ForwardingCommunicator : public Communicator {
 public:
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void all_gather(Stream& stream, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    inner_.all_gather(stream, all, mine, counts);
  }
  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    inner_.all_to_all(stream, recv, recv_counts, send, send_counts);
  }
  void broadcast(Stream& stream, Tensor inout, int root) override { inner_.broadcast(stream, inout, root); }
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    inner_.all_gather_bytes(all, mine, bytes);
  }
  void broadcast_bytes(void* data, size_t bytes, int root) override { inner_.broadcast_bytes(data, bytes, root); }
  void barrier() override { inner_.barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override { return inner_.split(color, key); }
  void abort(int exit_code) override { inner_.abort(exit_code); }

 protected:
  explicit ForwardingCommunicator(Communicator& inner) : inner_(inner) {}

 private:
  Communicator& inner_;
};

}  // namespace sffn
