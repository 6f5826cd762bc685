// What the communicator over NCCL does when the library, or another rank, does not do what it should. With the
// executor's NCCL, which fails where NVIDIA's would hang.
#include "comm/conformance.h"
#include "comm/nccl.h"
#include "core/buffer.h"
#include "support/catch.h"
#include "support/error_of.h"

#include "device/gpu_ranks.h"
#include "simt/collectives.h"
#include "simt/stream.h"

#include <chrono>

using namespace sffn;
using namespace sffn::test;

namespace {

// Of the calls that reach the host's communicator, those that found collectives of this rank under way.
class Witness final : public Communicator {
 public:
  Witness(std::unique_ptr<Communicator> inner, int& calls, int& early)
      : inner_(std::move(inner)), calls_(calls), early_(early) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void all_gather(Stream& s, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    seen().all_gather(s, all, mine, counts);
  }
  void all_to_all(Stream& s, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    seen().all_to_all(s, recv, recv_counts, send, send_counts);
  }
  void broadcast(Stream& s, Tensor inout, int root) override { seen().broadcast(s, inout, root); }
  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    seen().all_gather_bytes(all, mine, bytes);
  }
  void broadcast_bytes(void* data, size_t bytes, int root) override { seen().broadcast_bytes(data, bytes, root); }
  void barrier() override { seen().barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override { return seen().split(color, key); }
  void abort(int exit_code) override { inner_->abort(exit_code); }

 private:
  Communicator& seen() {
    const int run = simt::collectives_run();
    simt::drain_thread();
    ++calls_;
    early_ += simt::collectives_run() != run;
    return *inner_;
  }
  std::unique_ptr<Communicator> inner_;
  int &calls_, &early_;
};

struct OptionsScope {
  ~OptionsScope() { simt::nccl_options() = {}; }
};

Tensor filled(Stream& stream, const Buffer& memory, float value) {
  const Tensor tensor = memory.tensor({static_cast<int64_t>(memory.bytes() / sizeof(float))}, DType::kF32);
  const std::vector<float> values(static_cast<size_t>(tensor.numel()), value);
  stream.copy_to_device(tensor, values.data());
  return tensor;
}

}  // namespace

// Kills: any call of the host's communicator that does not wait for NCCL, for a stream, or for what a graph replays.
TEST_CASE("no call of the host begins while a collective of the GPU is under way", "[nccl]") {
  run_threads(2, [](Communicator& threads) {
    DeviceRuntime& gpu = cuda_runtime(threads.rank());
    int calls = 0, early = 0;
    const auto comm =
        make_nccl_communicator(std::make_unique<Witness>(threads.split(0, threads.rank()), calls, early), gpu);
    Stream first(gpu), second(gpu), host(cpu_runtime());
    const Buffer memory(gpu, 64), host_memory(cpu_runtime(), 64);
    const Tensor tensor = filled(first, memory, 1);
    const Tensor on_host = host_memory.tensor({16}, DType::kF32);
    const std::vector<int64_t> counts = {8, 8};
    Replay replay;
    int at = 0;
    const std::vector<std::function<void()>> host_calls = {
        [&] { comm->barrier(); },
        [&] { comm->gather_values(1); },
        [&] { comm->broadcast_bytes(&at, sizeof at, 1); },
        [&] { comm->split(0, 0); },
        [&] { comm->broadcast(host, on_host, 0); },
        [&] { comm->all_gather(host, on_host, on_host.slice(8 * comm->rank(), 8), counts); },
    };
    const std::vector<std::function<void()>> device_calls = {
        [&] { comm->broadcast(first, tensor, 0); },
        [&] {
          comm->broadcast(first, tensor, 1);
          comm->all_gather(second, tensor, tensor.slice(8 * comm->rank(), 8), counts);
        },
        [&] { replay.run(first, [&] { comm->broadcast(first, tensor, 0); }); },
    };
    for (const auto& device_call : device_calls) {
      for (const auto& host_call : host_calls) {
        device_call();
        const int before = calls, run = simt::collectives_run();
        host_call();
        SFFN_CHECK(calls > before, "a call of the host did not reach it");
        SFFN_CHECK(simt::collectives_run() > run, "nothing was under way before");
      }
    }
    SFFN_CHECK(early == 0, early, " calls of the host found collectives under way");
  });
}

// Kills: an error that is looked for nowhere, or only by the next collective.
TEST_CASE("a transfer that another rank does not make is an error of the next wait, on every rank", "[nccl]") {
  for (const bool host_waits : {true, false}) {
    run_gpu_ranks(2, [&](Communicator& comm, DeviceRuntime& gpu, Communicator& threads) {
      Stream stream(gpu);
      const Buffer sent(gpu, 64), received(gpu, 64);
      const Tensor send = filled(stream, sent, 1), recv = filled(stream, received, 2);
      const std::vector<int64_t> two = {2, 2}, mine = {2, comm.rank() == 0 ? 1 : 2};
      const Caught caught = error_of([&] {
        comm.all_to_all(stream, recv.slice(0, 4), two, send.slice(0, mine[0] + mine[1]), mine);
        host_waits ? comm.barrier() : stream.synchronize();
      });
      SFFN_CHECK(caught.code == ExitCode::kRunFailed, "exit code ", static_cast<int>(caught.code));
      SFFN_CHECK(caught.says("nccl: ") && caught.says("invalid usage"), caught.what);
      SFFN_CHECK(caught.says("rank 0 sends 4 bytes to rank 1, which expects 8 bytes") || caught.says("has aborted"),
                 caught.what);
      const Caught again = error_of([&] { comm.broadcast(stream, send, 0); });
      SFFN_CHECK(again.says("after it had failed"), "a failed communicator goes on: ", again.what);
      threads.barrier();
    });
  }
}

// Kills: ncclInProgress taken for a failure, or for the end of a call.
TEST_CASE("a non-blocking communicator is waited for after every call", "[nccl]") {
  const OptionsScope scope;
  simt::nccl_options().blocking = false;
  CHECK_NOTHROW(
      run_gpu_ranks(2, [](Communicator& comm, DeviceRuntime& gpu, Communicator&) { check_conformance(comm, gpu); }));
}

// Kills: an end that waits for ranks which will not come.
TEST_CASE("a rank that is unwound by an exception does not wait for the others to end", "[nccl]") {
  const OptionsScope scope;
  simt::nccl_options().patience = std::chrono::seconds(3);
  run_threads(2, [](Communicator& threads) {
    DeviceRuntime& gpu = cuda_runtime(threads.rank());
    auto comm = make_nccl_communicator(threads.split(0, threads.rank()), gpu);
    const auto start = std::chrono::steady_clock::now();
    const Caught caught = error_of([&] {
      if (threads.rank() == 1) return;
      const auto unwound = std::move(comm);
      throw UsageError("rank 0", "cannot go on");
    });
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    SFFN_CHECK(threads.rank() == 1 || caught.says("cannot go on"), caught.what);
    SFFN_CHECK(spent.count() < 2, "the end took ", spent.count(), " s");
    threads.barrier();
    if (threads.rank() == 1) {  // neither can end in order without the other
      const Caught lost = error_of([&] {
        const auto unwound = std::move(comm);
        throw RunError("rank 1", "ends as well");
      });
      SFFN_CHECK(lost.says("ends as well"), lost.what);
    }
  });
}

// Kills: a collective that one rank alone goes through.
TEST_CASE("ranks on the same GPU are refused when they meet", "[nccl]") {
  run_threads(2, [](Communicator& threads) {
    const Caught caught = error_of([&] { make_nccl_communicator(threads.split(0, threads.rank()), cuda_runtime(0)); });
    SFFN_CHECK(caught.says("have GPU 0"), caught.what);
  });
}
