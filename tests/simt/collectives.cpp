// NCCL between the executor's GPUs. A group of calls becomes one launch of each communicator on its stream, which waits
// for other ranks when its turn comes, outside of the lock that kernels run under.
#include "simt/collectives.h"

#include "simt/clique.h"
#include "simt/stream.h"
#include <nccl.h>

#include <cstring>
#include <memory>
#include <set>
#include <utility>

struct ncclComm {
  std::shared_ptr<simt::Clique> clique;
  int rank = 0, size = 0;
  bool finalized = false;
  int pending = 0;  // how often a non-blocking call is still not done
};

namespace simt {
namespace {

constexpr int kPolls = 3;

thread_local std::string last_error;
thread_local int launches_run = 0;

ncclResult_t refuse(ncclResult_t result, const std::string& what) {
  last_error = what;
  return result;
}

// Cliques that some ranks have not joined yet, by the number in their id.
struct Forming {
  std::mutex guard;
  uint64_t last = 0;
  std::map<uint64_t, std::pair<std::shared_ptr<Clique>, int>> cliques;  // and how many have come

  std::shared_ptr<Clique> find(uint64_t number, int size) {
    const std::lock_guard<std::mutex> lock(guard);
    auto& [clique, come] = cliques[number];
    if (!clique) clique = std::make_shared<Clique>(size, nccl_options().patience);
    std::shared_ptr<Clique> found = clique;
    if (++come == size) cliques.erase(number);
    return found;
  }
};
Forming forming;

// Those that are never destroyed, because their ranks were unwound by exceptions, are no leaks.
struct Live {
  std::mutex guard;
  std::set<ncclComm_t> comms;
};
Live& live = *new Live;  // before there are threads: detectors do not see how this file makes objects at first use
void keep(ncclComm_t comm) {
  const std::lock_guard<std::mutex> lock(live.guard);
  live.comms.insert(comm);
}
void drop(ncclComm_t comm) {
  const std::lock_guard<std::mutex> lock(live.guard);
  live.comms.erase(comm);
  delete comm;
}

struct Call {
  ncclComm_t comm;
  cudaStream_t stream;
  Operation operation;
};
struct Group {
  int depth = 0;
  std::vector<Call> calls;
};
thread_local Group group;

ncclResult_t state_of(ncclComm_t comm) {
  if (comm->pending > 0 && --comm->pending > 0) return ncclInProgress;
  const std::string why = comm->clique->why();
  return why.empty() ? ncclSuccess : refuse(ncclInvalidUsage, why);
}

// As a call of `comm` that was begun ends.
ncclResult_t begun(ncclComm_t comm) {
  if (nccl_options().blocking) return state_of(comm);
  comm->pending = kPolls;
  return ncclInProgress;
}

ncclResult_t launch(const std::vector<Call>& calls) {
  ncclResult_t result = ncclSuccess;
  std::vector<ncclComm_t> done;
  for (const Call& first : calls) {
    if (std::find(done.begin(), done.end(), first.comm) != done.end()) continue;
    done.push_back(first.comm);
    std::vector<Operation> operations;
    for (const Call& call : calls) {
      if (call.comm != first.comm) continue;
      if (call.stream != first.stream) return refuse(ncclInvalidUsage, "one communicator on two streams of a group");
      operations.push_back(call.operation);
    }
    enqueue(first.stream, [clique = first.comm->clique, rank = first.comm->rank, operations] {
      ++launches_run;
      clique->run(rank, operations);
    });
    if (const ncclResult_t ended = begun(first.comm); ended != ncclSuccess) result = ended;
  }
  return result;
}

ncclResult_t call(ncclComm_t comm, cudaStream_t stream, const Operation& operation) {
  if (comm == nullptr || comm->finalized) return refuse(ncclInvalidArgument, "there is no such communicator");
  if (comm->pending > 0) return refuse(ncclInvalidUsage, "a call before the last one had ended");
  if (operation.peer < 0 || operation.peer >= comm->size) return refuse(ncclInvalidArgument, "no such rank");
  if (group.depth > 0) {
    group.calls.push_back({comm, stream, operation});
    return ncclSuccess;
  }
  return launch({{comm, stream, operation}});
}

}  // namespace

NcclOptions& nccl_options() {
  static NcclOptions options;
  return options;
}

int collectives_run() { return launches_run; }

}  // namespace simt

using simt::Transfer;

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard<std::mutex> lock(simt::forming.guard);
  const uint64_t number = ++simt::forming.last;
  *id = {};
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  *comm = nullptr;
  uint64_t number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  if (number == 0 || ranks < 1) return simt::refuse(ncclInvalidArgument, "this is no id of a clique");
  int device = 0;
  (void)cudaGetDevice(&device);
  auto made = std::make_unique<ncclComm>();
  made->clique = simt::forming.find(number, ranks);
  made->rank = rank, made->size = ranks;
  if (!made->clique->join(rank, ranks, device)) return simt::refuse(ncclInvalidUsage, made->clique->why());
  *comm = made.release();
  simt::keep(*comm);
  return simt::begun(*comm);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm->pending > 0 || comm->finalized) return simt::refuse(ncclInvalidUsage, "finalized too early, or twice");
  simt::drain_thread();
  comm->finalized = true;
  return simt::begun(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (!comm->finalized || comm->pending > 0) return simt::refuse(ncclInvalidUsage, "destroyed before it was finalized");
  comm->clique->leave(comm->rank);
  simt::drop(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->clique->abort(comm->rank);
  simt::drop(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = simt::state_of(comm);
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t) { return simt::last_error.c_str(); }

ncclResult_t ncclGroupStart() {
  ++simt::group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (simt::group.depth == 0) return simt::refuse(ncclInvalidUsage, "a group ends that was not begun");
  if (--simt::group.depth > 0) return ncclSuccess;
  const std::vector<simt::Call> calls = std::exchange(simt::group.calls, {});
  return simt::launch(calls);
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return simt::call(comm, stream, {Transfer::kSend, data, nullptr, count, peer});
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return simt::call(comm, stream, {Transfer::kReceive, nullptr, data, count, peer});
}

ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t, ncclComm_t comm,
                           cudaStream_t stream) {
  return simt::call(comm, stream, {Transfer::kAllGather, send, recv, count, 0});
}

ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return simt::call(comm, stream, {Transfer::kBroadcast, send, recv, count, root});
}
