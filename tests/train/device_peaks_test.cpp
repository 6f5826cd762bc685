#include "train/device_peaks.h"

#include "support/catch.h"

using namespace sffn;

// Kills: the peak of sparse products, of another card, a unit.
TEST_CASE("peaks are those of dense products on the data sheet", "[train]") {
  const DevicePeaks& h200 = *find_device("h200");
  CHECK(h200.flops(true) == 989e12);
  CHECK(h200.flops(false) == 67e12);
  CHECK(h200.bandwidth == 4.8e12);
  CHECK(h200.memory == 141e9);
  const DevicePeaks& h100 = *find_device("h100");
  CHECK(h100.flops(true) == 989e12);
  CHECK(h100.bandwidth == 3.35e12);
  const DevicePeaks& a100 = *find_device("a100");
  CHECK(a100.flops(true) == 312e12);
  CHECK(a100.flops(false) == 19.5e12);
  CHECK(a100.bandwidth == 2.04e12);
  const DevicePeaks& l40s = *find_device("l40s");
  CHECK(l40s.flops(true) == 362e12);
  CHECK(l40s.flops(false) == 91.6e12);
  CHECK(l40s.bandwidth == 0.864e12);
  CHECK(find_device("cpu") == nullptr);
  CHECK(known_devices() == "h200, h100, a100, l40s");
}

// Kills: a variant with the same chip that gets the peak of another; a name that is found inside of another.
TEST_CASE("a card is known by exactly the name that it reports", "[train]") {
  const auto name_of_card = [](const char* reported) {
    const DevicePeaks* peaks = find_card(reported);
    return std::string(peaks == nullptr ? "" : peaks->name);
  };
  CHECK(name_of_card("NVIDIA H200") == "h200");
  CHECK(name_of_card("NVIDIA H100 80GB HBM3") == "h100");
  CHECK(name_of_card("NVIDIA A100-SXM4-80GB") == "a100");
  CHECK(name_of_card("A100-SXM4-80GB") == "a100");
  CHECK(name_of_card("NVIDIA L40S") == "l40s");
  for (const char* other :
       {"NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100 80GB PCIe", "NVIDIA L40", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "cpu", "SIMT executor", ""}) {
    INFO(other);
    CHECK(name_of_card(other).empty());
  }
}

// Kills: a sum instead of the larger of the two, bytes over FLOPs.
TEST_CASE("the roofline is the slower of memory and multipliers", "[train]") {
  const DevicePeaks& h200 = *find_device("h200");
  CHECK(h200.roofline_seconds(4.8e12, 989e12 / 2, true) == Approx(1));
  CHECK(h200.roofline_seconds(4.8e12, 2 * 989e12, true) == Approx(2));
  CHECK(h200.roofline_seconds(0, 67e12, false) == Approx(1));
  CHECK(h200.sustained_seconds(4.3e12, 0, true) == Approx(1));
  CHECK(h200.sustained_seconds(0, 790e12, true) == Approx(1));
}
