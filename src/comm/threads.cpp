#include "comm/threads.h"

#include "comm/arguments.h"
#include "kernels/cpu/parallel.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>

namespace sffn {
namespace {

// What all ranks of the process share: one lock for all groups, since meetings are short and this serves tests.
struct World {
  std::mutex guard;
  std::condition_variable changed;
  std::vector<char> ended;  // by rank
  std::string failure;      // empty: no rank has thrown

  explicit World(int ranks) : ended(static_cast<size_t>(ranks), 0) {}
  void end(int rank, bool failed) {
    const std::lock_guard<std::mutex> lock(guard);
    ended[static_cast<size_t>(rank)] = 1;
    if (failed && failure.empty()) failure = cat("rank ", rank, " has failed");
    changed.notify_all();
  }
};

// What a rank shows the others during one collective.
struct Offer {
  std::string call;  // must be the same on all ranks
  const std::byte* data = nullptr;
  std::vector<size_t> offsets = {};  // all_to_all: where the rows for each rank begin
  int color = 0, key = 0;
};

struct Group {
  World& world;
  std::vector<int> members;  // ranks of the world
  std::vector<Offer> offers;
  int arrived = 0;
  int64_t meeting = 0;
  std::map<int, std::shared_ptr<Group>> parts;  // of the split under way, by colour

  Group(World& in, std::vector<int> ranks) : world(in), members(std::move(ranks)), offers(members.size()) {}
  int size() const { return static_cast<int>(members.size()); }

  // Returns when all ranks have come; throws when one of them never will.
  void meet() {
    std::unique_lock<std::mutex> lock(world.guard);
    const int64_t mine = meeting;
    if (++arrived == size()) {
      arrived = 0;
      ++meeting;
      world.changed.notify_all();
    }
    std::string lost;
    world.changed.wait(lock, [&] { return meeting != mine || !(lost = who_is_lost()).empty(); });
    if (meeting == mine) throw RunError("threads", lost);
  }

 private:
  std::string who_is_lost() const {
    if (!world.failure.empty()) return world.failure;
    for (const int rank : members) {
      if (world.ended[static_cast<size_t>(rank)]) return cat("rank ", rank, " has ended while others wait for it");
    }
    return "";
  }
};

class ThreadsCommunicator final : public Communicator {
 public:
  ThreadsCommunicator(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void all_gather(Stream&, Tensor all, const Tensor& mine, std::span<const int64_t> counts) override {
    check_all_gather(all, mine, counts, rank_, size());
    if (moves_nothing(all)) return;
    const std::vector<size_t> offsets = row_offsets(counts, row_bytes(all));
    collective({cat("all_gather of ", all.bytes(), " bytes"), bytes_of(mine), offsets}, [&] {
      for (int r = 0; r < size(); ++r) {
        SFFN_CHECK(offer(r).offsets == offsets, "rank ", r, " gave other counts than rank ", rank_);
        take(bytes_of(all) + offsets[index(r)], offer(r).data, offsets[index(r) + 1] - offsets[index(r)]);
      }
    });
  }

  void all_to_all(Stream&, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                  std::span<const int64_t> send_counts) override {
    check_all_to_all(recv, recv_counts, send, send_counts, rank_, size());
    if (moves_nothing(recv)) return;
    const std::vector<size_t> offsets = row_offsets(recv_counts, row_bytes(recv));
    collective({"all_to_all", bytes_of(send), row_offsets(send_counts, row_bytes(send))}, [&] {
      for (int r = 0; r < size(); ++r) {
        const Offer& from = offer(r);
        const size_t first = from.offsets[index(rank_)], sent = from.offsets[index(rank_) + 1] - first;
        const size_t expected = offsets[index(r) + 1] - offsets[index(r)];
        SFFN_CHECK(sent == expected, "rank ", r, " sent ", sent, " bytes to rank ", rank_, ", which expected ",
                   expected);
        take(bytes_of(recv) + offsets[index(r)], from.data + first, sent);
      }
    });
  }

  void broadcast(Stream&, Tensor inout, int root) override {
    check_root(root, size());
    if (!moves_nothing(inout)) broadcast_bytes(inout.raw(), inout.bytes(), root);
  }

  void all_gather_bytes(void* all, const void* mine, size_t bytes) override {
    collective({cat("all_gather_bytes of ", bytes), static_cast<const std::byte*>(mine)}, [&] {
      for (int r = 0; r < size(); ++r) take(static_cast<std::byte*>(all) + index(r) * bytes, offer(r).data, bytes);
    });
  }

  void broadcast_bytes(void* data, size_t bytes, int root) override {
    check_root(root, size());
    collective({cat("broadcast of ", bytes, " bytes from rank ", root), static_cast<const std::byte*>(data)},
               [&] { take(static_cast<std::byte*>(data), offer(root).data, bytes); });
  }

  void barrier() override {
    collective({"barrier"}, [] {});
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    std::unique_ptr<Communicator> made;
    collective({"split", nullptr, {}, color, key}, [&] { made = join_part(color); });
    if (rank_ == 0) group_->parts.clear();
    group_->meet();  // before anyone may begin the next split
    return made;
  }

  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  static size_t index(int rank) { return static_cast<size_t>(rank); }
  static std::byte* bytes_of(const Tensor& tensor) { return static_cast<std::byte*>(tensor.raw()); }
  static void take(std::byte* to, const std::byte* from, size_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
  }
  const Offer& offer(int rank) const { return group_->offers[index(rank)]; }

  // All ranks show their offers, run body on what the others show, and wait until all have done so: nobody's data may
  // change or go away before, even when a rank fails.
  template <class Body>
  void collective(Offer mine, Body&& body) {
    group_->offers[index(rank_)] = std::move(mine);
    group_->meet();
    std::exception_ptr failure;
    try {
      for (int r = 0; r < size(); ++r) {
        SFFN_CHECK(offer(r).call == offer(rank_).call, "rank ", rank_, " is in ", offer(rank_).call, ", rank ", r,
                   " in ", offer(r).call);
      }
      body();
    } catch (...) {
      failure = std::current_exception();
    }
    group_->meet();
    if (failure) std::rethrow_exception(failure);
  }

  std::unique_ptr<Communicator> join_part(int color) {
    std::vector<int> ranks;  // of this group
    for (int r = 0; r < size(); ++r) {
      if (offer(r).color == color) ranks.push_back(r);
    }
    std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) { return offer(a).key < offer(b).key; });
    std::vector<int> members;
    for (const int r : ranks) members.push_back(group_->members[index(r)]);
    const std::lock_guard<std::mutex> lock(group_->world.guard);
    std::shared_ptr<Group>& part = group_->parts[color];
    if (!part) part = std::make_shared<Group>(group_->world, std::move(members));
    const auto place = std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    return std::make_unique<ThreadsCommunicator>(part, static_cast<int>(place));
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

int threads_of_caller() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

void use_threads([[maybe_unused]] int threads) {
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
}

}  // namespace

void run_threads(int ranks, const std::function<void(Communicator&)>& body) {
  SFFN_CHECK(ranks >= 1, ranks, " ranks");
  World world(ranks);
  std::vector<int> members(static_cast<size_t>(ranks));
  std::iota(members.begin(), members.end(), 0);
  const auto group = std::make_shared<Group>(world, std::move(members));
  const int share = std::max(1, threads_of_caller() / ranks);
  std::mutex guard;
  std::exception_ptr first;
  const auto run_rank = [&](int rank) {
    use_threads(share);
    bool failed = false;
    try {
      ThreadsCommunicator communicator(group, rank);
      body(communicator);
    } catch (...) {  // kept for the caller, who gets it
      failed = true;
      const std::lock_guard<std::mutex> lock(guard);
      if (!first) first = std::current_exception();
    }
    world.end(rank, failed);
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run_rank, rank);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace sffn
