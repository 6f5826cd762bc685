// Threads of the data layer: the first exception of any ends them all and is thrown again in the caller.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace sffn {

// Runs `body` on `jobs` threads, the caller's among them. `on_failure` hears of an exception, to wake the others.
template <class Body, class OnFailure>
void run_threads(int jobs, Body&& body, OnFailure&& on_failure) {
  std::mutex mutex;
  std::exception_ptr failure;
  const auto guarded = [&] {
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
      on_failure();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < jobs; ++i) threads.emplace_back(guarded);
  guarded();
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

// A pipeline without queues: each thread takes the next item (one at a time, in order), works on it (all at once) and
// delivers it (one at a time, in the order taken). So memory is one item a thread, and what is delivered does not
// depend on the number of threads. take(Item&) -> bool (false: no more), work(Item&), deliver(Item&).
template <class Item, class Take, class Work, class Deliver>
void run_in_order(int jobs, Take&& take, Work&& work, Deliver&& deliver) {
  std::mutex taking, delivering;
  std::condition_variable turn_came;
  uint64_t taken = 0, delivered = 0;
  bool no_more = false, stopped = false;

  const auto take_next = [&](Item& item, uint64_t& ticket) {
    const std::lock_guard<std::mutex> lock(taking);
    if (no_more) return false;
    no_more = true;  // also when take throws
    no_more = !take(item);
    ticket = taken++;
    return !no_more;
  };
  const auto deliver_in_turn = [&](Item& item, uint64_t ticket) {
    std::unique_lock<std::mutex> lock(delivering);
    turn_came.wait(lock, [&] { return stopped || delivered == ticket; });
    if (stopped) return false;
    deliver(item);
    ++delivered;
    turn_came.notify_all();
    return true;
  };
  const auto body = [&] {
    Item item;
    uint64_t ticket = 0;
    do {
      if (!take_next(item, ticket)) return;
      work(item);
    } while (deliver_in_turn(item, ticket));
  };
  run_threads(jobs, body, [&] {
    const std::lock_guard<std::mutex> lock(delivering);
    stopped = true;
    turn_came.notify_all();
  });
}

}  // namespace sffn
