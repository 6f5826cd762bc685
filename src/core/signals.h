// What the process was asked to do by a signal. Handlers set flags and nothing else; the trainer tells the other ranks
// with each step, so that all stop at the same one.
#pragma once
#include <array>
#include <csignal>
#include <string>

namespace sffn::signals {

inline constexpr std::array kStopSignals = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};

// For commands that ask stop_requested(); call before ranks meet. TERM, INT, HUP and USR1 ask for a save and a stop,
// USR2 for a save. A second INT or TERM leaves at once with 130 or 143: the last committed checkpoint stays valid.
// Throws RunError when refused.
void install();

int stop_signal();  // 0, or the number of the first signal that asked for a stop
inline bool stop_requested() { return stop_signal() != 0; }
std::string name(int signal);  // "TERM", "INT", "HUP", "USR1"; "signal N" for others
bool take_save_request();      // true once after each USR2

}  // namespace sffn::signals
