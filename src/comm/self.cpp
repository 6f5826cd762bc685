#include <cstdlib>
#include <cstring>

#include "comm/communicator.h"

namespace sffn {
namespace {

class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_gather(Stream&, Tensor all, const Tensor& mine, std::span<const int64_t>) override { move(all, mine); }
  void all_to_all(Stream&, Tensor recv, std::span<const int64_t>, const Tensor& send,
                  std::span<const int64_t>) override {
    move(recv, send);
  }
  void broadcast(Stream&, Tensor, int) override {}
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override { std::memmove(all, mine, bytes); }
  void broadcast_bytes(void*, size_t, int) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> split(int, int) override { return make_self_communicator(); }
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  static void move(Tensor to, const Tensor& from) {
    SFFN_CHECK(to.bytes() == from.bytes(), "one rank alone: ", from.shape().str(), " into ", to.shape().str());
    if (to.device().kind == Device::Kind::kMeta || to.raw() == from.raw() || to.bytes() == 0) return;
    SFFN_CHECK(to.device().kind == Device::Kind::kCpu, "the self communicator moves CPU tensors");
    std::memmove(to.raw(), from.raw(), to.bytes());
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() { return std::make_unique<SelfCommunicator>(); }

}  // namespace sffn
