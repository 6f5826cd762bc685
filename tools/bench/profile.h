#pragma once
#include "core/json.h"
#include "core/runtime.h"
#include "train/device_peaks.h"

#include <string>
#include <vector>

namespace sffn {

// What a profiled stream says, by kernel: [{"kernel", "launches", "ms", "share", "gb_per_s", "tflops", "roofline_ms",
// "of_roofline"}]. share: of `seconds`, what the whole took unprofiled. The roofline time is the sum over launches of
// max(bytes / bandwidth, FLOPs / peak); null where the device's peaks are unknown. First comes what loses most time to
// it, or without peaks what takes longest. Events resolve half a microsecond: shorter kernels look slower than they
// are.
Json profile_rows(const std::vector<KernelTime>& times, const DevicePeaks* peaks, double seconds);
std::string format_profile(const Json& rows);

}  // namespace sffn
