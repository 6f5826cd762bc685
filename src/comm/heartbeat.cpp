#include "comm/heartbeat.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

namespace sffn {

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

HeartbeatTable::HeartbeatTable(Communicator& host, int world_rank)
    : own_(host.rank()),
      count_(host.size()),
      memory_(host, kHeaderBytes + sizeof(Slot) * static_cast<size_t>(host.size())) {
  Slot& own = slot(own_);
  own.rank = world_rank;
  own.process = getpid();
  own.step = -1;
  own.moved = monotonic_seconds();
  host.barrier();
}

HeartbeatTable::Slot& HeartbeatTable::slot(int host_rank) const {
  static_assert(sizeof(Header) <= kHeaderBytes);
  auto* slots = reinterpret_cast<Slot*>(static_cast<std::byte*>(memory_.data()) + kHeaderBytes);
  return slots[host_rank];
}

// Words are stored one by one: a reader may see a phase half written, but only of a rank that moves.
void HeartbeatTable::set(int64_t step, std::string_view phase, int64_t item, bool waits) {
  Slot& own = slot(own_);
  std::array<uint64_t, kPhaseWords> words = {};
  std::memcpy(words.data(), phase.data(), std::min(phase.size(), sizeof(words) - 1));
  bool moved = own.step.exchange(step) != step;
  moved |= own.item.exchange(item) != item;
  own.waits = waits;
  for (size_t i = 0; i < words.size(); ++i) moved |= own.phase[i].exchange(words[i]) != words[i];
  if (moved) own.moved = monotonic_seconds();
}

void HeartbeatTable::sign_of_life() { slot(own_).seen = monotonic_seconds(); }

void HeartbeatTable::done() { slot(own_).done = 1; }

std::vector<Heartbeat> HeartbeatTable::all() const {
  std::vector<Heartbeat> beats;
  for (int i = 0; i < count_; ++i) beats.push_back(read(i));
  return beats;
}

Heartbeat HeartbeatTable::read(int host_rank) const {
  const Slot& from = slot(host_rank);
  std::array<char, sizeof(from.phase) + 1> phase = {};
  for (size_t i = 0; i < kPhaseWords; ++i) {
    const uint64_t word = from.phase[i];
    std::memcpy(phase.data() + i * sizeof(word), &word, sizeof(word));
  }
  return {from.rank, from.process, from.step, phase.data(), from.moved, from.seen, from.done != 0, from.waits != 0};
}

bool HeartbeatTable::same_error_below(uint64_t error_hash) {
  slot(own_).error = error_hash;
  for (int i = 0; i < own_; ++i) {
    if (slot(i).error == error_hash) return true;
  }
  return false;
}

}  // namespace sffn
