// Ranks that work together. Four kinds: self (one rank), threads (N ranks in one process, for tests), mpi (CPU
// tensors), nccl (CUDA tensors; all else through another communicator). Every call but rank, size and abort is
// collective: every rank must enter it, in the same order, whatever its counts. Nothing moves on the meta device, where
// arguments are checked only.
// Throws RunError: counts or types that do not fit the tensors, a transfer that failed, a rank that has left.
#pragma once
#include "core/stream.h"
#include "core/tensor.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace sffn {

// Rows on their way, which a call of a communicator began.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Work that follows on the stream finds the rows in place. Once.
  virtual void finish(Stream&) = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Tensors on the stream's device. Rows are those of the outermost dimension; counts are rows per rank.
  // all[Σ counts, ...] = the ranks' parts in rank order; mine has counts[rank] rows. `counts` is the same on all ranks.
  // `mine` may be its own place in `all`, but must not overlap it otherwise.
  virtual void all_gather(Stream&, Tensor all, const Tensor& mine, std::span<const int64_t> counts) = 0;
  // send holds send_counts[r] rows for each rank r in rank order; recv gets recv_counts[r] rows from each rank r.
  // They must not overlap.
  virtual void all_to_all(Stream&, Tensor recv, std::span<const int64_t> recv_counts, const Tensor& send,
                          std::span<const int64_t> send_counts) = 0;
  virtual void broadcast(Stream&, Tensor inout, int root) = 0;

  // The same two calls, in two halves: between them the stream works on. The rows that go are those of the stream's
  // work so far; neither they nor those that come are touched before finish(). Ranks begin and finish in the same
  // order, and what was begun may be mixed with other calls. Where a kind of communicator cannot, beginning does it
  // all.
  virtual std::unique_ptr<Transfer> begin_all_gather(Stream&, Tensor all, const Tensor& mine,
                                                     std::span<const int64_t> counts);
  virtual std::unique_ptr<Transfer> begin_all_to_all(Stream&, Tensor recv, std::span<const int64_t> recv_counts,
                                                     const Tensor& send, std::span<const int64_t> send_counts);

  // Host memory, small: `all` receives size() · bytes, in rank order.
  virtual void all_gather_bytes(void* all, const void* mine, size_t bytes) = 0;
  virtual void broadcast_bytes(void* data, size_t bytes, int root) = 0;
  virtual void barrier() = 0;
  // Ranks of one colour form a new communicator, ordered by key, then by rank. Collective.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  // Ends every rank of the job with this exit code, now; callable from any thread. Does not return.
  [[noreturn]] virtual void abort(int exit_code) = 0;

  template <class T>
  std::vector<T> gather_values(const T& mine) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<T> all(size());
    all_gather_bytes(all.data(), &mine, sizeof(T));
    return all;
  }
  template <class T>
  T max_value(const T& mine) {
    T best = mine;
    for (const T& value : gather_values(mine)) best = value > best ? value : best;
    return best;
  }
  template <class T>
  T min_value(const T& mine) {
    T best = mine;
    for (const T& value : gather_values(mine)) best = value < best ? value : best;
    return best;
  }
  // Every rank's list one after another, in rank order, on every rank; lengths may differ.
  template <class T>
  std::vector<T> gather_lists(const std::vector<T>& mine) {
    const std::vector<int64_t> counts = gather_values(static_cast<int64_t>(mine.size()));
    const size_t longest = static_cast<size_t>(*std::max_element(counts.begin(), counts.end()));
    std::vector<T> padded = mine, all(longest * static_cast<size_t>(size())), joined;
    padded.resize(longest);
    all_gather_bytes(all.data(), padded.data(), longest * sizeof(T));
    for (int r = 0; r < size(); ++r) {
      const auto first = all.begin() + static_cast<int64_t>(longest) * r;
      joined.insert(joined.end(), first, first + counts[static_cast<size_t>(r)]);
    }
    return joined;
  }
  bool all_true(bool mine) { return min_value(static_cast<char>(mine)) != 0; }
};

// One rank alone; every call is a copy.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace sffn
