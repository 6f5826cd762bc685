#include "comm/communicator.h"

#include "comm/conformance.h"
#include "comm/threads.h"
#include "core/buffer.h"
#include "support/catch.h"

#include <atomic>
#include <chrono>
#include <thread>

using namespace sffn;

// Kills: a copy to the wrong offset; ignoring `in place`.
TEST_CASE("the self communicator does what the copies say", "[comm]") {
  const auto self = make_self_communicator();
  test::check_conformance(*self);
}

// Kills: leaving a meeting before all ranks have copied; offsets by rank instead of by counts; split ordered by rank.
TEST_CASE("threads as ranks do what the copies say", "[comm]") {
  for (const int ranks : {1, 2, 4, 8}) {
    INFO(ranks << " ranks");
    CHECK_NOTHROW(run_threads(ranks, [](Communicator& comm) { test::check_conformance(comm); }));
  }
}

namespace {

std::string error_of_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  try {
    run_threads(ranks, body);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// Kills: ranks that wait for ever for one that threw; rethrowing what the others got because of it.
TEST_CASE("a rank that throws frees the others, and its own exception comes back", "[comm]") {
  std::atomic<int> freed = 0;
  const std::string what = error_of_ranks(4, [&](Communicator& comm) {
    comm.barrier();
    if (comm.rank() == 2) throw UsageError("rank two", "cannot go on");
    try {
      comm.barrier();
    } catch (const RunError& e) {
      if (std::string(e.what()).find("rank 2 has failed") != std::string::npos) ++freed;
      throw;
    }
  });
  CHECK(what == "rank two: cannot go on");
  CHECK(freed == 3);
}

// Kills: ranks that wait for ever for one that returned.
TEST_CASE("a rank that returns early frees those who wait for it", "[comm]") {
  const std::string what = error_of_ranks(2, [](Communicator& comm) {
    if (comm.rank() == 1) comm.barrier();
  });
  CHECK(what.find("rank 0 has ended") != std::string::npos);
}

// Kills: taking the end of a rank outside the group for a failure.
TEST_CASE("a rank outside a group may end while the group goes on", "[comm]") {
  CHECK_NOTHROW(run_threads(3, [](Communicator& comm) {
    const auto part = comm.split(comm.rank() == 0 ? 0 : 1, 0);
    if (comm.rank() == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    part->barrier();
  }));
}

// Kills: copying from a rank that is in another call.
TEST_CASE("ranks in different collectives are told so", "[comm]") {
  const std::string what = error_of_ranks(2, [](Communicator& comm) {
    if (comm.rank() == 0) {
      comm.barrier();
    } else {
      comm.gather_values(1);
    }
  });
  CHECK(what.find("barrier") != std::string::npos);
  CHECK(what.find("all_gather_bytes") != std::string::npos);
}

// Kills: a receiver that trusts its own counts.
TEST_CASE("a rank that sends fewer rows than another expects is an error, not stale memory", "[comm]") {
  const std::string what = error_of_ranks(2, [](Communicator& comm) {
    Stream stream(cpu_runtime());
    const Buffer memory(cpu_runtime(), 4096);
    const Tensor recv = memory.tensor({4}, DType::kF32);
    const Tensor send(static_cast<std::byte*>(memory.data()) + 2048, {comm.rank() == 0 ? 3 : 4}, DType::kF32,
                      Device::cpu());
    const std::vector<int64_t> two = {2, 2}, sent = {2, comm.rank() == 0 ? 1 : 2};
    comm.all_to_all(stream, recv, two, send, sent);
  });
  CHECK(what.find("expected") != std::string::npos);
}
