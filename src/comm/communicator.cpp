#include "comm/communicator.h"

namespace sffn {
namespace {

struct Done final : Transfer {
  void finish(Stream&) override {}
};

}  // namespace

std::unique_ptr<Transfer> Communicator::begin_all_gather(Stream& stream, Tensor all, const Tensor& mine,
                                                         std::span<const int64_t> counts) {
  all_gather(stream, all, mine, counts);
  return std::make_unique<Done>();
}

std::unique_ptr<Transfer> Communicator::begin_all_to_all(Stream& stream, Tensor recv,
                                                         std::span<const int64_t> recv_counts, const Tensor& send,
                                                         std::span<const int64_t> send_counts) {
  all_to_all(stream, recv, recv_counts, send, send_counts);
  return std::make_unique<Done>();
}

}  // namespace sffn
