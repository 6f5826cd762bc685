#include "tools/bench/profile.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace sffn {
namespace {

struct Kernel {
  std::string name;
  int64_t launches = 0;
  double seconds = 0, bytes = 0, flops = 0, roofline = 0;
  double lost() const { return seconds - roofline; }
};

std::vector<Kernel> by_kernel(const std::vector<KernelTime>& times, const DevicePeaks* peaks) {
  std::map<std::string, Kernel> kernels;
  for (const KernelTime& time : times) {
    Kernel& kernel = kernels[time.name];
    const auto launches = static_cast<double>(time.launches);
    kernel.name = time.name;
    kernel.launches += time.launches;
    kernel.seconds += time.seconds;
    kernel.bytes += launches * time.bytes;
    kernel.flops += launches * time.flops;
    if (peaks != nullptr) {
      kernel.roofline += launches * peaks->roofline_seconds(time.bytes, time.flops, time.tensor_cores);
    }
  }
  std::vector<Kernel> list;
  for (auto& [name, kernel] : kernels) list.push_back(std::move(kernel));
  std::stable_sort(list.begin(), list.end(), [](const Kernel& a, const Kernel& b) { return a.lost() > b.lost(); });
  return list;
}

}  // namespace

Json profile_rows(const std::vector<KernelTime>& times, const DevicePeaks* peaks, double seconds) {
  Json rows = Json::array();
  for (const Kernel& kernel : by_kernel(times, peaks)) {
    const bool timed = kernel.seconds > 0;
    Json row;
    row["kernel"] = kernel.name;
    row["launches"] = kernel.launches;
    row["ms"] = 1e3 * kernel.seconds;
    row["share"] = kernel.seconds / seconds;
    row["gb_per_s"] = timed ? Json(1e-9 * kernel.bytes / kernel.seconds) : Json();
    row["tflops"] = timed && kernel.flops > 0 ? Json(1e-12 * kernel.flops / kernel.seconds) : Json();
    row["roofline_ms"] = peaks != nullptr ? Json(1e3 * kernel.roofline) : Json();
    row["of_roofline"] = peaks != nullptr && timed ? Json(kernel.roofline / kernel.seconds) : Json();
    rows.push_back(row);
  }
  return rows;
}

std::string format_profile(const Json& rows) {
  char line[256];
  std::snprintf(line, sizeof line, "%-52s %8s %11s %7s %9s %9s %9s\n", "kernel", "launches", "ms", "share", "GB/s",
                "TFLOP/s", "roofline");
  std::string table = line;
  const auto number = [](const Json& row, const char* key, const char* format) {
    char text[32];
    const Json& value = *row.find(key);
    if (value.is_null()) return std::string("-");
    std::snprintf(text, sizeof text, format, value.as_double());
    return std::string(text);
  };
  for (const Json& row : rows.as_array()) {
    std::snprintf(line, sizeof line, "%-52.52s %8ld %11.4f %6.1f%% %9s %9s %9s\n",
                  row.find("kernel")->as_string().c_str(), static_cast<long>(row.find("launches")->as_int()),
                  row.find("ms")->as_double(), 100 * row.find("share")->as_double(),
                  number(row, "gb_per_s", "%.1f").c_str(), number(row, "tflops", "%.3f").c_str(),
                  number(row, "of_roofline", "%.3f").c_str());
    table += line;
  }
  return table;
}

}  // namespace sffn
