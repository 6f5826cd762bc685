#include "simt/clique.h"

#include "simt/executor.h"

#include <cstring>
#include <list>

namespace simt {
namespace {

std::string name_of(int rank) { return "rank " + std::to_string(rank); }
std::string size_of(size_t bytes) { return std::to_string(bytes) + " bytes"; }

void copy(void* to, const void* from, size_t bytes) {
  if (to != from) std::memmove(to, from, bytes);
}

bool partly_overlaps(const Operation& o, int rank, size_t ranks) {
  const auto* from = static_cast<const char*>(o.from);
  const auto* to = static_cast<const char*>(o.to);
  const bool gathers = o.kind == Transfer::kAllGather;
  if (from == to + (gathers ? static_cast<size_t>(rank) * o.bytes : 0)) return false;
  const size_t received = gathers ? ranks * o.bytes : o.bytes;
  return from < to + received && to < from + o.bytes;
}

}  // namespace

std::string Operation::str() const {
  switch (kind) {
    case Transfer::kAllGather:
      return "all_gather of " + size_of(bytes);
    case Transfer::kBroadcast:
      return "broadcast of " + size_of(bytes) + " from " + name_of(peer);
    case Transfer::kSend:
      return "send of " + size_of(bytes) + " to " + name_of(peer);
    case Transfer::kReceive:
      break;
  }
  return "receive of " + size_of(bytes) + " from " + name_of(peer);
}

Clique::Clique(int size, std::chrono::seconds patience)
    : patience_(patience), devices_(static_cast<size_t>(size), -1), met_(static_cast<size_t>(size), 0) {}

void Clique::fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
  changed_.notify_all();
}

std::string Clique::why() {
  const Lock lock(guard_);
  return failure_;
}

bool Clique::join(int rank, int size, int device) {
  Lock lock(guard_);
  if (size != static_cast<int>(devices_.size()) || rank < 0 || rank >= size) {
    fail(name_of(rank) + " of " + std::to_string(size) + " joins a clique of " + std::to_string(devices_.size()));
  } else if (devices_[static_cast<size_t>(rank)] != -1) {
    fail(name_of(rank) + " joins twice");
  } else {
    for (size_t r = 0; r < devices_.size(); ++r) {
      if (devices_[r] == device) {
        fail(name_of(rank) + " and " + name_of(static_cast<int>(r)) + " have GPU " + std::to_string(device));
      }
    }
    devices_[static_cast<size_t>(rank)] = device;
    ++joined_;
    changed_.notify_all();
  }
  return wait(lock, rank, "all ranks to join", [this] { return joined_ == static_cast<int>(devices_.size()); });
}

bool Clique::wait(Lock& lock, int rank, const std::string& what, const std::function<bool()>& until) {
  if (!failure_.empty()) return false;
  waiting_[rank] = {what, &until};
  fail_if_stuck();
  if (!changed_.wait_for(lock, patience_, [&] { return !failure_.empty() || until(); })) {
    fail(name_of(rank) + " waits for " + what + ", and nobody comes");
  }
  waiting_.erase(rank);
  return failure_.empty();
}

// Nothing changes any more once every rank waits and none of them has what it waits for.
void Clique::fail_if_stuck() {
  if (waiting_.size() < devices_.size()) return;
  std::string all;
  for (const auto& [rank, waiting] : waiting_) {
    if ((*waiting.until)()) return;
    all += (all.empty() ? "" : ", ") + name_of(rank) + " waits for " + waiting.what;
  }
  fail(all);
}

void Clique::leave(int rank) {
  Lock lock(guard_);
  ++left_;
  changed_.notify_all();
  wait(lock, rank, "all ranks to leave", [this] { return left_ == static_cast<int>(devices_.size()); });
}

void Clique::abort(int rank) {
  const Lock lock(guard_);
  fail(name_of(rank) + " has aborted");
}

void Clique::run(int rank, const std::vector<Operation>& operations) {
  Lock lock(guard_);
  for (const Operation& o : operations) {
    const bool together = o.kind == Transfer::kAllGather || o.kind == Transfer::kBroadcast;
    if (together && !meet(lock, rank, o)) return;
  }
  exchange(lock, rank, operations);
}

bool Clique::meet(Lock& lock, int rank, const Operation& mine) {
  if (!failure_.empty()) return false;
  const int64_t number = met_[static_cast<size_t>(rank)]++;
  Meeting& meeting = meetings_[number];
  meeting.offers.resize(devices_.size(), nullptr);
  meeting.offers[static_cast<size_t>(rank)] = &mine;
  if (++meeting.arrived == static_cast<int>(devices_.size())) {
    complete(meeting);
    meeting.over = true;
    changed_.notify_all();
  }
  if (!wait(lock, rank, mine.str(), [&meeting] { return meeting.over; })) return false;
  if (++meeting.left == static_cast<int>(devices_.size())) meetings_.erase(number);
  return true;
}

void Clique::complete(const Meeting& meeting) {
  const Operation& first = *meeting.offers[0];
  const size_t ranks = meeting.offers.size();
  for (size_t r = 0; r < ranks; ++r) {
    const Operation& o = *meeting.offers[r];
    const int rank = static_cast<int>(r);
    if (o.kind != first.kind || o.bytes != first.bytes || o.peer != first.peer) {
      return fail(name_of(0) + " is in " + first.str() + ", " + name_of(rank) + " in " + o.str());
    }
    if (partly_overlaps(o, rank, ranks)) return fail(name_of(rank) + "'s memory overlaps in " + o.str());
  }
  const DeviceMemoryAccess access;
  for (const Operation* o : meeting.offers) {
    auto* to = static_cast<char*>(o->to);
    if (o->kind == Transfer::kBroadcast) copy(to, meeting.offers[static_cast<size_t>(o->peer)]->from, o->bytes);
    for (size_t r = 0; r < ranks && o->kind == Transfer::kAllGather; ++r) {
      copy(to + r * o->bytes, meeting.offers[r]->from, o->bytes);
    }
  }
}

bool Clique::exchange(Lock& lock, int rank, const std::vector<Operation>& operations) {
  std::list<Message> sent;
  for (const Operation& o : operations) {
    if (o.kind != Transfer::kSend || !failure_.empty()) continue;
    sent.push_back({o.from, o.bytes, false});
    mail_[{rank, o.peer}].push_back(&sent.back());
  }
  changed_.notify_all();
  for (const Operation& o : operations) {
    if (o.kind == Transfer::kReceive && !receive(lock, rank, o)) return false;
  }
  for (const Operation& o : operations) {
    if (o.kind != Transfer::kSend) continue;
    if (!wait(lock, rank, o.str(), [&sent] { return sent.front().taken; })) return false;
    sent.pop_front();
  }
  return true;
}

bool Clique::receive(Lock& lock, int rank, const Operation& o) {
  std::deque<Message*>& box = mail_[{o.peer, rank}];
  if (!wait(lock, rank, o.str(), [&box] { return !box.empty(); })) return false;
  Message& message = *box.front();
  box.pop_front();
  if (message.bytes != o.bytes) {
    fail(name_of(o.peer) + " sends " + size_of(message.bytes) + " to " + name_of(rank) + ", which expects " +
         size_of(o.bytes));
    return false;
  }
  const DeviceMemoryAccess access;
  copy(o.to, message.data, o.bytes);
  message.taken = true;
  changed_.notify_all();
  return true;
}

}  // namespace simt
