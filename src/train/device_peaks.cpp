#include "train/device_peaks.h"

#include "core/error.h"

#include <algorithm>

namespace sffn {
namespace {

// The SXM cards of 80 and 141 GB, and the L40S, which has PCIe 4.0 x16 alone.
constexpr DevicePeaks kDevices[] = {
    {"h200", "H200", 989e12, 67e12, 4.8e12, 141e9, 450e9},
    {"h100", "H100 80GB HBM3", 989e12, 67e12, 3.35e12, 80e9, 450e9},
    {"a100", "A100-SXM4-80GB", 312e12, 19.5e12, 2.04e12, 80e9, 300e9},
    {"l40s", "L40S", 362e12, 91.6e12, 0.864e12, 48e9, 32e9},
};

}  // namespace

double DevicePeaks::roofline_seconds(double bytes, double count, bool tensor_cores) const {
  return std::max(bytes / bandwidth, count / flops(tensor_cores));
}

double DevicePeaks::sustained_seconds(double bytes, double count, bool tensor_cores) const {
  return std::max(bytes / (kSustainedBandwidth * bandwidth), count / (kSustainedFlops * flops(tensor_cores)));
}

const DevicePeaks* find_device(std::string_view name) {
  for (const DevicePeaks& peaks : kDevices) {
    if (name == peaks.name) return &peaks;
  }
  return nullptr;
}

const DevicePeaks* require_device(const std::string& name) {
  const DevicePeaks* peaks = find_device(name);
  if (peaks == nullptr && name != "cpu") {
    throw UsageError("--device", cat("\"", name, "\" is not known; known: ", known_devices(), ", cpu"));
  }
  return peaks;
}

const DevicePeaks* find_card(std::string_view reported) {
  constexpr std::string_view kMaker = "NVIDIA ";
  if (reported.starts_with(kMaker)) reported.remove_prefix(kMaker.size());
  for (const DevicePeaks& peaks : kDevices) {
    if (reported == peaks.card) return &peaks;
  }
  return nullptr;
}

std::string known_devices() {
  std::string names;
  for (const DevicePeaks& peaks : kDevices) names += (names.empty() ? "" : ", ") + std::string(peaks.name);
  return names;
}

}  // namespace sffn
