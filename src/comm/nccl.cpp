#include "comm/nccl.h"

#include "comm/arguments.h"
#include "core/log.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stream.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

namespace sffn {
namespace {

constexpr ncclDataType_t kByte = ncclUint8;  // no collective here calculates

// What a call returned, and what the library adds to it.
std::string text_of(ncclResult_t result, const char* call, ncclComm_t comm) {
  const std::string more = ncclGetLastError(comm);
  return cat(call, ": ", ncclGetErrorString(result), more.empty() ? "" : ": " + more,
             "; NCCL_DEBUG=WARN in the environment tells more");
}

void check_without_communicator(ncclResult_t result, const char* call) {
  if (result != ncclSuccess) throw RunError("nccl", text_of(result, call, nullptr));
}

// A communicator of NCCL, and what it says.
class Handle final : public cuda::Lookout {
 public:
  // Collective: returns when all ranks have come.
  Handle(const ncclUniqueId& id, int rank, int size, DeviceRuntime& gpu) : exceptions_(std::uncaught_exceptions()) {
    const ncclResult_t result = ncclCommInitRank(&comm_, size, id, rank);
    if (comm_ == nullptr) check_without_communicator(result, "ncclCommInitRank");
    check(result, "ncclCommInitRank");
    watch(gpu);
  }
  // The end is collective among the ranks of a node. While an exception unwinds this rank the others may not come by;
  // then the process ends with the communicator in it.
  ~Handle() override {
    if (comm_ == nullptr || std::uncaught_exceptions() != exceptions_) return;
    try {
      check(ncclCommFinalize(comm_), "ncclCommFinalize");
      check_without_communicator(ncclCommDestroy(std::exchange(comm_, nullptr)), "ncclCommDestroy");
    } catch (const Error& e) {
      log::warn(e.what());
    }
  }

  bool has_failed() const { return comm_ == nullptr; }
  ncclComm_t get() const {
    SFFN_CHECK(!has_failed(), "a communicator was used after it had failed");
    return comm_;
  }

  // Returns when the call has done what it does on the host: at once unless the communicator is non-blocking, which
  // NCCL_COMM_BLOCKING=0 makes it.
  void check(ncclResult_t result, const char* call) {
    while (result == ncclInProgress) {
      std::this_thread::yield();
      result = state();
    }
    if (result != ncclSuccess) fail(result, call);
  }
  // Throws what went wrong on the devices or between them since the last look.
  void look() override { check(state(), "a collective under way"); }

 private:
  ncclResult_t state() {
    ncclResult_t found = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(get(), &found);
    return asked == ncclSuccess ? found : asked;
  }

  [[noreturn]] void fail(ncclResult_t result, const char* call) {
    const std::string text = text_of(result, call, comm_);
    give_up();
    throw RunError("nccl", text);
  }

  // Frees streams from transfers whose partners will never come, so that this rank gets to say what happened. A thread
  // of its own, because the call may wait for the other ranks of the node, which may not come either.
  void give_up() {
    std::thread([comm = std::exchange(comm_, nullptr)] { (void)ncclCommAbort(comm); }).detach();
  }

  ncclComm_t comm_ = nullptr;
  int exceptions_;
};

// Bytes on the device that go to one rank, or come from it.
struct Part {
  std::byte* data = nullptr;
  size_t bytes = 0;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, DeviceRuntime& runtime)
      : host_(std::move(host)), runtime_(runtime), exceptions_(std::uncaught_exceptions()) {
    if (size() == 1) return;
    ncclUniqueId id{};
    if (rank() == 0) check_without_communicator(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host_->broadcast_bytes(&id, sizeof id, 0);
    cuda::check(cudaSetDevice(runtime.device().index), "cudaSetDevice");
    handle_ = std::make_unique<Handle>(id, rank(), size(), runtime);
  }
  ~NcclCommunicator() override {
    if (std::uncaught_exceptions() != exceptions_ || !handle_ || handle_->has_failed()) return;
    try {
      wait();
    } catch (const Error& e) {
      log::warn(e.what());
    }
  }
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  void all_gather(Stream& stream, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    if (is_on_host(all)) return waited().all_gather(stream, all, mine, counts);
    check_all_gather(all, mine, counts, rank(), size());
    if (moves_nothing(all, runtime_.device()) || all.bytes() == 0) return;
    const bool equal = std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count == counts[0]; });
    if (equal && size() > 1) {
      enqueue(stream, "ncclAllGather", [&](ncclComm_t comm, cudaStream_t on) {
        return ncclAllGather(mine.raw(), all.raw(), mine.bytes(), kByte, comm, on);
      });
      return;
    }
    const std::vector<Part> send(static_cast<size_t>(size()), Part{bytes_of(mine), mine.bytes()});
    exchange(stream, parts_of(all, counts), send);
  }

  void all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    if (is_on_host(recv)) return waited().all_to_all(stream, recv, recv_counts, send, send_counts);
    check_all_to_all(recv, recv_counts, send, send_counts, rank(), size());
    if (moves_nothing(recv, runtime_.device())) return;
    exchange(stream, parts_of(recv, recv_counts), parts_of(send, send_counts));
  }

  std::unique_ptr<Transfer> begin_all_gather(Stream& stream, Tensor all, const Tensor& mine,
                                             std::span<const int64_t> counts) override {
    return begin(stream, [&](Stream& on) { all_gather(on, all, mine, counts); });
  }
  std::unique_ptr<Transfer> begin_all_to_all(Stream& stream, Tensor recv, std::span<const int64_t> recv_counts,
                                             const Tensor& send, std::span<const int64_t> send_counts) override {
    return begin(stream, [&](Stream& on) { all_to_all(on, recv, recv_counts, send, send_counts); });
  }

  void broadcast(Stream& stream, Tensor inout, int root) override {
    if (is_on_host(inout)) return waited().broadcast(stream, inout, root);
    check_root(root, size());
    if (moves_nothing(inout, runtime_.device()) || inout.bytes() == 0 || size() == 1) return;
    enqueue(stream, "ncclBroadcast", [&](ncclComm_t comm, cudaStream_t on) {
      return ncclBroadcast(inout.raw(), inout.raw(), inout.bytes(), kByte, root, comm, on);
    });
  }

  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    waited().all_gather_bytes(all, mine, bytes);
  }
  void broadcast_bytes(void* data, size_t bytes, int root) override { waited().broadcast_bytes(data, bytes, root); }
  void barrier() override { waited().barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return make_nccl_communicator(waited().split(color, key), runtime_);
  }
  void abort(int exit_code) override { host_->abort(exit_code); }  // from any thread: waits for nothing

 private:
  static bool is_on_host(const Tensor& tensor) { return tensor.device().kind == Device::Kind::kCpu; }
  static std::byte* bytes_of(const Tensor& tensor) { return static_cast<std::byte*>(tensor.raw()); }
  static std::vector<Part> parts_of(const Tensor& tensor, std::span<const int64_t> counts) {
    std::vector<Part> parts;
    std::byte* next = bytes_of(tensor);
    for (const int64_t count : counts) {
      parts.push_back({next, static_cast<size_t>(count) * row_bytes(tensor)});
      next += parts.back().bytes;
    }
    return parts;
  }

  // recv[r] = what rank r has for this one; send[r] goes to rank r. What is empty is left out, on both sides alike.
  void exchange(Stream& stream, const std::vector<Part>& recv, const std::vector<Part>& send) {
    const auto own = static_cast<size_t>(rank());
    if (recv[own].bytes > 0 && recv[own].data != send[own].data) {
      cuda::check(cudaMemcpyAsync(recv[own].data, send[own].data, recv[own].bytes, cudaMemcpyDeviceToDevice,
                                  cuda::native(stream).stream),
                  "a rank's own part");
    }
    const auto is_empty = [&](size_t r) { return r == own || (recv[r].bytes == 0 && send[r].bytes == 0); };
    size_t first = 0;
    while (first < recv.size() && is_empty(first)) ++first;
    if (first == recv.size()) return;
    enqueue(stream, "ncclSend and ncclRecv", [&](ncclComm_t comm, cudaStream_t on) {
      ncclResult_t worst = ncclGroupStart();
      const auto note = [&](ncclResult_t result) {
        if (worst == ncclSuccess && result != ncclInProgress) worst = result;
      };
      for (size_t r = first; r < recv.size(); ++r) {
        if (is_empty(r)) continue;
        const int peer = static_cast<int>(r);
        if (send[r].bytes > 0) note(ncclSend(send[r].data, send[r].bytes, kByte, peer, comm, on));
        if (recv[r].bytes > 0) note(ncclRecv(recv[r].data, recv[r].bytes, kByte, peer, comm, on));
      }
      const ncclResult_t ended = ncclGroupEnd();  // also after an error: or every later call would join the group
      return worst == ncclSuccess ? ended : worst;
    });
  }

  // Behind what is on the stream so far, on a stream of the communicator's own: its transfers go one after another.
  template <class Call>
  std::unique_ptr<Transfer> begin(Stream& stream, Call&& call) {
    auto transfer = std::make_unique<Beside>();
    if (!stream.is_cuda() || stream.is_profiled()) {  // a profile is of one stream
      call(stream);
    } else {
      Event ready(runtime_);
      ready.record(stream);
      ready.hold(beside_);
      call(beside_);
      transfer->end.emplace(runtime_);
      transfer->end->record(beside_);
    }
    return transfer;
  }
  struct Beside final : Transfer {
    std::optional<Event> end;  // none: the stream itself did it
    void finish(Stream& stream) override {
      if (end) end->hold(stream);
    }
  };

  template <class Call>
  void enqueue(Stream& stream, const char* name, Call&& call) {
    cuda::CudaStream& native = cuda::native(stream);
    handle_->look();
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cuda::check(cudaStreamIsCapturing(native.stream, &capture), "cudaStreamIsCapturing");
    if (capture == cudaStreamCaptureStatusNone)
      note(native);
    else
      recorded_ = true;
    handle_->check(call(handle_->get(), native.stream), name);
  }

  void note(const cuda::CudaStream& stream) {
    const std::weak_ptr<cuda::CudaStream*> used = stream.self;
    for (const auto& known : used_) {
      if (!known.owner_before(used) && !used.owner_before(known)) return;
    }
    used_.push_back(used);
  }

  // Until nothing that was given to NCCL is under way. A stream that is gone had ended its work.
  void wait() {
    for (const auto& used : std::exchange(used_, {})) {
      if (const std::shared_ptr<cuda::CudaStream*> stream = used.lock()) runtime_.synchronize(*stream);
    }
    if (!recorded_) return;
    cuda::check(cudaDeviceSynchronize(), "the device");
    handle_->look();
  }
  Communicator& waited() {
    wait();
    return *host_;
  }

  std::unique_ptr<Communicator> host_;
  DeviceRuntime& runtime_;
  int exceptions_;
  Stream beside_{runtime_, Urgency::kHigh};             // of the transfers that are begun
  std::unique_ptr<Handle> handle_;                      // none for one rank
  std::vector<std::weak_ptr<cuda::CudaStream*>> used_;  // streams with collectives since the last wait
  bool recorded_ = false;                               // collectives are part of graphs, whose launches nobody tells
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, DeviceRuntime& runtime) {
  return std::make_unique<NcclCommunicator>(std::move(host), runtime);
}

std::string nccl_version() {
  int version = 0;
  check_without_communicator(ncclGetVersion(&version), "ncclGetVersion");
  return cat(version / 10000, ".", version % 10000 / 100, ".", version % 100);
}

}  // namespace sffn
