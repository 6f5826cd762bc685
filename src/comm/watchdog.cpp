#include "comm/watchdog.h"

#include "core/log.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <tuple>

namespace sffn {
namespace {

constexpr double kPoll = 0.1;           // seconds between looks
constexpr double kLifeless = 1.0;       // a watchdog that has not looked for this long does not run
constexpr double kRollCall = 1.5;       // for live ranks to report
constexpr double kAbortDeadline = 5.0;  // for the abort to end this process

std::string seconds(double time) {
  char text[32];
  std::snprintf(text, sizeof(text), time < 10 ? "%.1f s" : "%.0f s", time);
  return text;
}

std::string place(const Heartbeat& beat) {
  const std::string phase = beat.phase.empty() ? "no phase" : beat.phase;
  return beat.step < 0 ? phase + " at start-up" : cat(phase, " of step ", beat.step);
}

bool is_lifeless(const Heartbeat& beat, double now) { return beat.seen > 0 && now - beat.seen > kLifeless; }

std::string ranks_of(const std::vector<Heartbeat>& beats) {
  std::string text = beats.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < beats.size(); ++i) text += cat(i ? "," : "", beats[i].rank);
  return text;
}

// Of the ranks that run, those that are in one place and wait for others there. Where nobody said so, most of them, or
// else those that came last: after the one they wait for was stuck.
std::vector<Heartbeat> waiting_group(const std::vector<Heartbeat>& beats, double now) {
  std::map<std::tuple<bool, int64_t, std::string>, std::vector<Heartbeat>> groups;
  for (const Heartbeat& beat : beats) {
    if (!is_lifeless(beat, now)) groups[{beat.waits, beat.step, beat.phase}].push_back(beat);
  }
  std::vector<Heartbeat> best;
  const auto last_moved = [](const std::vector<Heartbeat>& group) {
    double last = 0;
    for (const Heartbeat& beat : group) last = std::max(last, beat.moved);
    return last;
  };
  const auto weight = [&](const std::vector<Heartbeat>& group) {
    return std::tuple(!group.empty() && group[0].waits, group.size(), last_moved(group));
  };
  for (const auto& [key, group] : groups) {
    if (weight(group) > weight(best)) best = group;
  }
  return best;
}

// Whatever happens to the calls that come next, the process ends.
void leave_after(double delay, int exit_code) {
  std::thread([delay, exit_code] {
    std::this_thread::sleep_for(std::chrono::duration<double>(delay));
    _exit(exit_code);
  }).detach();
}

}  // namespace

std::string where(const Heartbeat& beat, double now) {
  return cat("rank ", beat.rank, " is in ", place(beat), " since ", seconds(now - beat.moved));
}

std::string roll_call_summary(const std::vector<Heartbeat>& beats, double now, int world_size) {
  const std::vector<Heartbeat> waiting = waiting_group(beats, now);
  std::string odd;
  for (const Heartbeat& beat : beats) {
    const bool waits =
        std::any_of(waiting.begin(), waiting.end(), [&](const Heartbeat& w) { return w.rank == beat.rank; });
    if (waits || beat.done) continue;
    odd += is_lifeless(beat, now) ? cat(", rank ", beat.rank, " (process ", beat.process, ") does not run, it was in ",
                                        place(beat), " ", seconds(now - beat.moved), " ago")
                                  : ", " + where(beat, now);
  }
  if (waiting.empty()) return odd.empty() ? "no rank runs" : odd.substr(2);
  const bool several = waiting.size() > 1;
  if (!odd.empty()) return cat(ranks_of(waiting), several ? " wait in " : " waits in ", place(waiting[0]), odd);
  const bool elsewhere = world_size > static_cast<int>(beats.size());
  return cat(ranks_of(waiting), several ? " are all in " : " is in ", place(waiting[0]), " since ",
             seconds(now - waiting[0].moved), elsewhere ? "; the cause is on another host" : "");
}

Watchdog::Watchdog(Communicator& world, HeartbeatTable& table, WatchdogLimits limits)
    : world_(world), table_(table), limits_(limits), started_(monotonic_seconds()), thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard<std::mutex> lock(guard_);
    stop_ = true;
  }
  stopping_.notify_all();
  thread_.join();
}

void Watchdog::run() {
  double last = started_;
  table_.sign_of_life();
  std::unique_lock<std::mutex> lock(guard_);
  while (!stopping_.wait_for(lock, std::chrono::duration<double>(kPoll), [this] { return stop_; })) {
    const double now = monotonic_seconds();
    // After Ctrl-Z and fg all heartbeats are old: time counts from here.
    if (now - last > std::max(kLifeless, limits_.run / 2)) started_ = now;
    last = now;
    table_.sign_of_life();
    if (table_.announced_end() >= 0) {
      leave_after(kLifeless, table_.announced_end());
      return;
    }
    const bool alarm = table_.alarm();
    if (alarm || all_are_stuck(now)) return roll_call(!alarm && table_.raise_alarm());
  }
}

bool Watchdog::all_are_stuck(double now) const {
  bool any = false;
  for (const Heartbeat& beat : table_.all()) {
    if (beat.done) continue;
    const double limit = beat.step < 0 ? limits_.start_up : limits_.run;
    if (limit <= 0 || now - std::max(beat.moved, started_) <= limit) return false;
    any = true;
  }
  return any;
}

void Watchdog::roll_call(bool first) {
  leave_after(kAbortDeadline, 1);
  log::warn("watchdog: ", where(table_.mine(), monotonic_seconds()));
  table_.report();
  // The first one speaks for all; should it be stuck itself, the next one does.
  const double now = monotonic_seconds();
  first ? wait_for_reports(now + kRollCall) : wait_for_end(now + 2 * kRollCall);
  if (table_.announced_end() < 0) {
    log::error("watchdog: ", roll_call_summary(table_.all(), monotonic_seconds(), world_.size()));
    table_.announce_end(1);
    world_.abort(1);
  }
  leave_after(kLifeless, table_.announced_end());
}

// Returns when all ranks have reported, the end was announced, or the deadline has passed.
void Watchdog::wait_for_reports(double deadline) {
  bool all_reported = false;
  const auto count = static_cast<int>(table_.all().size());
  while (!all_reported && table_.announced_end() < 0 && monotonic_seconds() < deadline) {
    std::this_thread::sleep_for(std::chrono::duration<double>(kPoll / 2));
    table_.sign_of_life();
    all_reported = true;
    for (int i = 0; i < count; ++i) all_reported &= table_.reported(i);
  }
}

// Returns when the end was announced or the deadline has passed: not at the last report, or two would speak at once.
void Watchdog::wait_for_end(double deadline) {
  while (table_.announced_end() < 0 && monotonic_seconds() < deadline) {
    std::this_thread::sleep_for(std::chrono::duration<double>(kPoll / 2));
    table_.sign_of_life();
  }
}

}  // namespace sffn
