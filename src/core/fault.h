// Places where tests make the process fail. Compiled in always, one predictable branch each; nothing happens unless the
// process was started with --enable-fault-injection and SFFN_FAULT names the place.
#pragma once
#include <atomic>
#include <cstdint>
#include <string_view>

namespace sffn {

// Arms SFFN_FAULT=NAME:RANK:STEP:ACTION[:MS] for this process of that rank; RANK and STEP may be "*". Without a call
// the variable is ignored. With a step the fault happens once; with "*" each time. Throws UsageError when malformed.
//   kill abort exit stop    end or stop the process        throw    an exception nobody expects
//   delay                   sleep MS milliseconds          enospc eio    a RunError as from a failing write
void enable_fault_injection(int rank);

namespace detail {
extern std::atomic<bool> fault_is_armed;
void fault_point_reached(std::string_view name, int64_t step, std::string_view place);
}  // namespace detail

// `place` is the file being worked on; it stands in the error of enospc and eio.
inline void fault_point(std::string_view name, int64_t step, std::string_view place = {}) {
  if (detail::fault_is_armed.load(std::memory_order_relaxed)) [[unlikely]] {
    detail::fault_point_reached(name, step, place);
  }
}

}  // namespace sffn
