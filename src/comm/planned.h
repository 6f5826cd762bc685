#pragma once
#include "comm/communicator.h"

#include <memory>

namespace sffn {

// Messages to other ranks, and their bytes.
struct Sent {
  double messages = 0, bytes = 0;

  Sent& operator+=(const Sent& more) {
    messages += more.messages;
    bytes += more.bytes;
    return *this;
  }
  bool operator==(const Sent&) const = default;
};
inline Sent operator+(Sent a, const Sent& b) { return a += b; }
inline Sent operator-(const Sent& a, const Sent& b) { return {a.messages - b.messages, a.bytes - b.bytes}; }
inline Sent operator*(double times, const Sent& sent) { return {times * sent.messages, times * sent.bytes}; }

// What a rank sends, by kind of call. All-gathers of equal parts go round a ring; of unequal ones each part goes to
// every rank where the library has no ring for them (NCCL).
struct Traffic {
  Sent all_gather = {}, uneven_all_gather = {}, all_to_all = {}, broadcast = {};

  Sent gathers() const { return all_gather + uneven_all_gather; }
  double total_bytes() const { return (gathers() + all_to_all + broadcast).bytes; }
  Traffic& operator+=(const Traffic& more) {
    all_gather += more.all_gather;
    uneven_all_gather += more.uneven_all_gather;
    all_to_all += more.all_to_all;
    broadcast += more.broadcast;
    return *this;
  }
};
inline Traffic operator-(const Traffic& a, const Traffic& b) {
  return {.all_gather = a.all_gather - b.all_gather,
          .uneven_all_gather = a.uneven_all_gather - b.uneven_all_gather,
          .all_to_all = a.all_to_all - b.all_to_all,
          .broadcast = a.broadcast - b.broadcast};
}
inline Traffic operator*(double times, const Traffic& traffic) {
  return {.all_gather = times * traffic.all_gather,
          .uneven_all_gather = times * traffic.uneven_all_gather,
          .all_to_all = times * traffic.all_to_all,
          .broadcast = times * traffic.broadcast};
}

// Rank `rank` of `size` that do not exist: tensor calls on the meta device are counted in `traffic`, which must outlive
// the communicator; host values are this rank's own for every rank. For planning only.
std::unique_ptr<Communicator> make_planned_communicator(int rank, int size, Traffic& traffic);

}  // namespace sffn
