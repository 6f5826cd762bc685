// The executor's NCCL does what NVIDIA's does, and finds what that one would hang in.
#include "simt/collectives.h"

#include "support/catch.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Rank {
  int rank = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  float *a = nullptr, *b = nullptr;  // [8], a holds 10·rank + i, b zeros
};

constexpr size_t kFloat = sizeof(float);

// What every rank's body, its stream and its communicator say: empty where nothing is wrong.
std::vector<std::string> run_ranks(const std::function<ncclResult_t(Rank&)>& body, std::vector<float>* b = nullptr) {
  ncclUniqueId id;
  (void)ncclGetUniqueId(&id);
  std::vector<std::string> errors(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      Rank rank{.rank = r};
      (void)cudaSetDevice(r);
      (void)ncclCommInitRank(&rank.comm, 2, id, r);
      (void)cudaStreamCreateWithFlags(&rank.stream, cudaStreamNonBlocking);
      (void)cudaMalloc(reinterpret_cast<void**>(&rank.a), 8 * kFloat);
      (void)cudaMalloc(reinterpret_cast<void**>(&rank.b), 8 * kFloat);
      std::vector<float> values(8);
      (void)cudaMemcpyAsync(rank.b, values.data(), 8 * kFloat, cudaMemcpyHostToDevice, rank.stream);
      for (int i = 0; i < 8; ++i) values[static_cast<size_t>(i)] = static_cast<float>(10 * r + i);
      (void)cudaMemcpyAsync(rank.a, values.data(), 8 * kFloat, cudaMemcpyHostToDevice, rank.stream);
      ncclResult_t result = body(rank);
      (void)cudaStreamSynchronize(rank.stream);
      if (result == ncclSuccess) (void)ncclCommGetAsyncError(rank.comm, &result);
      if (result != ncclSuccess) errors[static_cast<size_t>(r)] = ncclGetLastError(rank.comm);
      if (r == 0 && b != nullptr) {
        b->resize(8);
        (void)cudaMemcpyAsync(b->data(), rank.b, 8 * kFloat, cudaMemcpyDeviceToHost, rank.stream);
        (void)cudaStreamSynchronize(rank.stream);
      }
      (void)cudaFree(rank.a), (void)cudaFree(rank.b);
      (void)cudaStreamDestroy(rank.stream);
      if (result == ncclSuccess) {
        (void)ncclCommFinalize(rank.comm);
        (void)ncclCommDestroy(rank.comm);
      } else {
        (void)ncclCommAbort(rank.comm);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

ncclResult_t send(const Rank& r, size_t floats) {
  return ncclSend(r.a, floats * kFloat, ncclUint8, 1 - r.rank, r.comm, r.stream);
}
ncclResult_t receive(const Rank& r, size_t floats, float* to = nullptr) {
  return ncclRecv(to == nullptr ? r.b : to, floats * kFloat, ncclUint8, 1 - r.rank, r.comm, r.stream);
}
ncclResult_t gather(const Rank& r, size_t floats) {
  return ncclAllGather(r.a, r.b, floats * kFloat, ncclUint8, r.comm, r.stream);
}

void check_both(const std::vector<std::string>& errors, const std::string& part) {
  for (const std::string& error : errors) {
    INFO(error);
    CHECK(error.find(part) != std::string::npos);
  }
}

}  // namespace

// Kills: parts in another order, a message that overtakes an earlier one between the same ranks.
TEST_CASE("the executor's collectives move what NCCL's move", "[simt]") {
  std::vector<float> b;
  CHECK(run_ranks([](Rank& r) { return gather(r, 3); }, &b) == std::vector<std::string>(2));
  CHECK(b == std::vector<float>{0, 1, 2, 10, 11, 12, 0, 0});
  const auto trade = [](Rank& r) {
    (void)ncclGroupStart();
    (void)receive(r, 1, r.b + 4);
    (void)send(r, 1);
    (void)receive(r, 2);
    (void)send(r, 2);
    return ncclGroupEnd();
  };
  CHECK(run_ranks(trade, &b) == std::vector<std::string>(2));
  CHECK(b == std::vector<float>{10, 11, 0, 0, 10, 0, 0, 0});
}

// Kills: an executor in which a program works that hangs or corrupts memory over NCCL.
TEST_CASE("ranks that do different things are told so, both of them", "[simt]") {
  check_both(run_ranks([](Rank& r) { return gather(r, r.rank == 0 ? 2 : 3); }),
             "rank 0 is in all_gather of 8 bytes, rank 1 in all_gather of 12 bytes");
  check_both(run_ranks([](Rank& r) {
               return r.rank == 0 ? gather(r, 2) : ncclBroadcast(r.a, r.b, 2 * kFloat, ncclUint8, 0, r.comm, r.stream);
             }),
             "rank 1 in broadcast of 8 bytes from rank 0");
  check_both(run_ranks([](Rank& r) { return r.rank == 0 ? send(r, 2) : receive(r, 3); }),
             "rank 0 sends 8 bytes to rank 1, which expects 12 bytes");
  check_both(run_ranks([](Rank& r) { return r.rank == 0 ? gather(r, 2) : receive(r, 2); }),
             "rank 0 waits for all_gather of 8 bytes, rank 1 waits for receive of 8 bytes from rank 0");
  check_both(run_ranks([](Rank& r) { return ncclAllGather(r.b + 1, r.b, 2 * kFloat, ncclUint8, r.comm, r.stream); }),
             "memory overlaps");
}

// Kills: sends that are buffered, so that calls which must stand in a group need not.
TEST_CASE("sends that wait for one another are an error, and none within a group", "[simt]") {
  const auto both_send_first = [](Rank& r) {
    const ncclResult_t sent = send(r, 2);
    return sent == ncclSuccess ? receive(r, 2) : sent;
  };
  check_both(run_ranks(both_send_first), "rank 0 waits for send of 8 bytes to rank 1, rank 1 waits for send");
  const auto grouped = [&](Rank& r) {
    (void)ncclGroupStart();
    (void)both_send_first(r);
    return ncclGroupEnd();
  };
  CHECK(run_ranks(grouped) == std::vector<std::string>(2));
}

// Kills: a group that starts before its end, a call that takes effect before its stream's turn.
TEST_CASE("nothing moves before the group has ended and its stream has come to it", "[simt]") {
  const auto errors = run_ranks([](Rank& r) {
    const int before = simt::collectives_run();
    (void)ncclGroupStart();
    (void)gather(r, 2);
    (void)cudaStreamSynchronize(r.stream);
    const bool early = simt::collectives_run() != before;
    const ncclResult_t ended = ncclGroupEnd();
    return early || simt::collectives_run() != before ? ncclInternalError : ended;
  });
  CHECK(errors == std::vector<std::string>(2));
}

// Kills: a stand-in that forgives what a non-blocking communicator does not.
TEST_CASE("a call before the last one of a non-blocking communicator has ended is an error", "[simt]") {
  simt::nccl_options().blocking = false;
  const auto errors = run_ranks([](Rank& r) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) (void)ncclCommGetAsyncError(r.comm, &state);
    const ncclResult_t first = gather(r, 1);
    return first == ncclInProgress ? gather(r, 1) : first;
  });
  simt::nccl_options() = {};
  check_both(errors, "a call before the last one had ended");
}
