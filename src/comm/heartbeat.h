// Where each rank of a host is: step, phase and since when, in memory that the host's ranks share, so that a rank which
// is stuck or stopped can be named by the others.
#pragma once
#include "comm/shared_memory.h"

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

struct Heartbeat {
  int rank = 0;  // in the world
  int64_t process = 0;
  int64_t step = -1;   // -1: starting up
  std::string phase;   // "" before the first beat
  double moved = 0;    // monotonic seconds when step, phase or item last changed
  double seen = 0;     // when its watchdog last ran; 0: it has none
  bool done = false;   // ended as it should
  bool waits = false;  // for other ranks, in a collective
};

double monotonic_seconds();

class HeartbeatTable {
 public:
  HeartbeatTable(Communicator& host, int world_rank);  // collective over host

  // Cheap: a few stores. Call it at every change of phase, and with a new `item` for each block of a long one.
  void beat(int64_t step, std::string_view phase, int64_t item = 0) { set(step, phase, item, false); }
  // The same before a collective: a rank that waits is not the one at fault.
  void wait(int64_t step, std::string_view phase) { set(step, phase, 0, true); }
  void sign_of_life();  // of this rank's watchdog
  void done();

  Heartbeat mine() const { return read(own_); }
  std::vector<Heartbeat> all() const;  // of this host, in order of rank

  // The first rank to call it gets true.
  bool raise_alarm() { return header().alarm.exchange(1) == 0; }
  bool alarm() const { return header().alarm != 0; }
  void report() { slot(own_).reported = 1; }
  bool reported(int host_rank) const { return slot(host_rank).reported != 0; }

  // The job is about to be aborted with this exit code: whoever sees it leaves too.
  void announce_end(int exit_code) { header().ending = 1 + exit_code; }
  int announced_end() const { return header().ending - 1; }  // -1: none

  // Publishes this rank's error; true when a lower rank of the host has failed with the same one.
  bool same_error_below(uint64_t error_hash);

 private:
  struct Slot;
  struct Header {
    std::atomic<int> alarm, ending;
  };
  Header& header() const { return *static_cast<Header*>(memory_.data()); }
  Slot& slot(int host_rank) const;
  Heartbeat read(int host_rank) const;
  void set(int64_t step, std::string_view phase, int64_t item, bool waits);

  // Phases longer than this are cut.
  static constexpr int kPhaseWords = 4;
  struct alignas(64) Slot {
    std::atomic<int> rank, done, waits, reported;
    std::atomic<int64_t> process, step, item;
    std::atomic<double> moved, seen;
    std::atomic<uint64_t> phase[kPhaseWords];
    std::atomic<uint64_t> error;
  };
  static_assert(std::atomic<double>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);
  static constexpr size_t kHeaderBytes = 64;

  int own_, count_;
  SharedMemory memory_;
};

}  // namespace sffn
