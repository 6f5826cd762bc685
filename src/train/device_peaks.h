// What known devices do at best: data sheets' figures, and what a measured card sustained of them.
#pragma once
#include <string>
#include <string_view>

namespace sffn {

// FLOPs and bytes a second; memory in bytes.
struct DevicePeaks {
  const char* name;  // as commands take it
  const char* card;  // as the driver reports it, behind "NVIDIA "
  // bf16: dense products on tensor cores (sparse ones are twice that); fp32: without TF32.
  double bf16_flops, fp32_flops, bandwidth, memory;
  double link;  // between the cards of a node, one direction

  double flops(bool tensor_cores) const { return tensor_cores ? bf16_flops : fp32_flops; }
  // The time that work cannot go below: max(bytes / bandwidth, FLOPs / peak).
  double roofline_seconds(double bytes, double flops, bool tensor_cores) const;
  // The same at the rates that large kernels sustain.
  double sustained_seconds(double bytes, double flops, bool tensor_cores) const;
};

// An H200 multiplied 8192³ of random bf16 at 790 of 989 TFLOP/s, and copied at 4.3 of 4.8 TB/s. The same shares are
// expected of other cards.
inline constexpr double kSustainedFlops = 790.0 / 989.0, kSustainedBandwidth = 4.3 / 4.8;

const DevicePeaks* find_device(std::string_view name);  // h200 | h100 | a100 | l40s; else nullptr
// The same, and nullptr for "cpu"; UsageError "--device: …" for another name.
const DevicePeaks* require_device(const std::string& name);
// Of the card that reports itself by this name; nullptr for any other: variants with the same chip have other clocks
// and memories, and a share of the wrong peak is worse than none.
const DevicePeaks* find_card(std::string_view reported);
std::string known_devices();  // "h200, h100, a100, l40s"

}  // namespace sffn
