#include "tools/bench/harness.h"

#include "kernels/ops.h"
#include "tools/bench/profile.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

namespace sffn {
namespace {

constexpr size_t kLeastSets = 3;
constexpr double kLeastLap = 100e-6;  // seconds between two marks, so that they do not show
constexpr int64_t kMostCalls = 1000;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

Tensor Workspace::zero(DType dtype, const Shape& shape) {
  const Tensor tensor = buffers_.emplace_back(stream_.runtime(), shape, dtype).tensor(shape, dtype);
  bytes_ += tensor.bytes();
  return tensor;
}

Tensor Workspace::normal(DType dtype, const Shape& shape) {
  const Tensor tensor = zero(dtype, shape);
  ops::random_normal(stream_, tensor, RandomKey{seed_, buffers_.size()}, 0, 1.0, false);
  return tensor;
}

Tensor Workspace::indices(const std::vector<int32_t>& values) {
  const Tensor tensor = zero(DType::kI32, {static_cast<int64_t>(values.size())});
  stream_.copy_to_device(tensor, values.data());
  stream_.synchronize();
  return tensor;
}

Effort effort_for(Device device) {
  return device.kind == Device::Kind::kCuda ? Effort{.warm_ups = 10, .repeats = 20, .seconds = 0.02} : Effort{};
}

Harness::Harness(DeviceRuntime& runtime, const Effort& effort)
    : runtime_(runtime), effort_(effort), stream_(runtime), peaks_(find_card(runtime.name())) {}

// At least three that are twice the cache together. One that is 16 times as large needs no other: its beginning is gone
// before its end. Calls that bring their own memory have no other.
size_t Harness::sets_for(size_t bytes) const {
  const size_t cache = runtime_.cache_bytes();
  if (cache == 0 || bytes == 0 || bytes >= 16 * cache) return 1;
  return std::max(kLeastSets, 2 * cache / bytes + 1);
}

double Harness::median_seconds(const MakeCall& make) {
  std::deque<Workspace> memory;
  std::vector<Call> calls;
  size_t sets = 1;
  for (size_t set = 0; set < sets; ++set) {
    calls.push_back(make(memory.emplace_back(stream_, set + 1)));
    if (set == 0) sets = std::min<size_t>(sets_for(memory[0].bytes()), 64);
  }
  size_t next = 0;
  const auto run = [&](int64_t count) {
    StreamMarks marks(stream_);
    marks.mark();
    for (int64_t i = 0; i < count; ++i) calls[next++ % calls.size()]();
    marks.mark();
    return marks.seconds()[0] / static_cast<double>(count);
  };
  run(1);
  const int64_t warm_ups = std::max<int64_t>(effort_.warm_ups, static_cast<int64_t>(sets)) - 1;
  const double once = std::max(warm_ups > 0 ? run(warm_ups) : run(1), 1e-9);
  const auto calls_of_lap = std::clamp<int64_t>(std::llround(kLeastLap / once), 1, kMostCalls);
  const double lap = once * static_cast<double>(calls_of_lap);
  const auto laps = std::clamp<int64_t>(std::llround(effort_.seconds / lap), effort_.repeats, kMostCalls);
  StreamMarks marks(stream_);
  marks.mark();
  for (int64_t i = 0; i < laps; ++i) {
    for (int64_t k = 0; k < calls_of_lap; ++k) calls[next++ % calls.size()]();
    marks.mark();
  }
  const double seconds = median(marks.seconds()) / static_cast<double>(calls_of_lap);
  stream_.start_profile();
  calls[0]();
  const std::vector<KernelTime> times = stream_.take_profile();
  kernels_ = times.empty() ? Json() : profile_rows(times, peaks_, seconds);
  stream_.synchronize();
  return seconds;
}

Json Harness::to_json(const BenchRow& row) const {
  const auto or_null = [](bool known, double value) { return known ? Json(value) : Json(); };
  const bool has_work = row.bytes > 0 || row.flops > 0, rated = peaks_ != nullptr && has_work;
  const double roofline = rated ? peaks_->roofline_seconds(row.bytes, row.flops, row.tensor_cores) : 0;
  const double sustained = rated ? peaks_->sustained_seconds(row.bytes, row.flops, row.tensor_cores) : 0;
  const bool has_prediction = peaks_ != nullptr && (row.predicted_seconds || has_work);
  const double predicted = row.predicted_seconds.value_or(sustained);
  Json json;
  json["name"] = row.name;
  json["shape"] = row.shape;
  json["ms"] = 1e3 * row.seconds;
  json["gb_per_s"] = or_null(row.bytes > 0, 1e-9 * row.bytes / row.seconds);
  json["tflops"] = or_null(row.flops > 0, 1e-12 * row.flops / row.seconds);
  json["roofline_ms"] = or_null(rated, 1e3 * roofline);
  json["of_roofline"] = or_null(rated, roofline / row.seconds);
  json["predicted_ms"] = or_null(has_prediction, 1e3 * predicted);
  json["of_predicted"] = or_null(has_prediction, predicted / row.seconds);
  json["error"] = row.error ? Json(*row.error) : Json();
  json["memory_bytes"] = row.memory_bytes ? Json(static_cast<int64_t>(*row.memory_bytes)) : Json();
  if (!kernels_.is_null()) json["kernels"] = kernels_;
  return json;
}

std::string format_rows(const Json& rows) {
  std::ostringstream out;
  out << std::fixed;
  const auto cell = [&](const Json& row, const char* key, int width, int digits, const char* unit) {
    const Json* value = row.find(key);
    const bool shown = value != nullptr && !value->is_null();
    if (shown) {
      out << std::setw(width) << std::setprecision(digits) << value->as_double() << unit;
    } else {
      out << std::setw(width) << "-" << std::string(std::char_traits<char>::length(unit), ' ');
    }
  };
  for (const Json& row : rows.as_array()) {
    out << std::left << std::setw(34) << row.find("name")->as_string() << " " << std::setw(34)
        << row.find("shape")->as_string() << std::right;
    cell(row, "ms", 11, 4, " ms");
    cell(row, "gb_per_s", 10, 1, " GB/s");
    cell(row, "tflops", 10, 3, " TFLOP/s");
    cell(row, "of_roofline", 8, 3, " of roofline");
    cell(row, "of_predicted", 8, 3, " of predicted");
    const Json *error = row.find("error"), *share = row.find("of_roofline");
    if (error != nullptr && !error->is_null())
      out << "  error " << std::scientific << std::setprecision(1) << error->as_double() << std::fixed;
    if (share != nullptr && !share->is_null() && share->as_double() > 1)
      out << "  ABOVE ITS CEILING: the measurement is wrong";
    out << "\n";
  }
  return out.str();
}

}  // namespace sffn
