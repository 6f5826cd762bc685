#include "train/plan_table.h"

#include <cmath>
#include <cstdio>
#include <utility>

namespace sffn {
namespace {

enum class Unit { kCount, kFlops, kBytes, kMilliseconds };

// "1.99 GiB" of 1991614464 bytes, "266 MFLOPs" of 2.66e8: three digits, prefixes of 1024 for bytes, else of 1000.
std::string with_unit(double value, Unit unit) {
  const double base = unit == Unit::kBytes ? 1024 : 1000;
  size_t prefix = 0;
  while (std::abs(value) >= base && prefix < 6) value /= base, ++prefix;
  const char* const decimal[] = {"", "k", "M", "G", "T", "P", "E"};
  const char* const binary[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  const char* const name = unit == Unit::kBytes ? "B" : unit == Unit::kFlops ? "FLOPs" : "";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f %s%s",
                prefix == 0 || value >= 99.95 ? 0
                : value >= 9.995              ? 1
                                              : 2,
                value, (unit == Unit::kBytes ? binary : decimal)[prefix], name);
  return text;
}

std::string table_row(const Json::Member& member, Unit unit) {
  const Json& value = member.value;
  char text[160];
  if (value.is_null()) {
    std::snprintf(text, sizeof text, "  %-26s %12s\n", member.key.c_str(), "unknown");
  } else if (unit == Unit::kMilliseconds) {
    std::snprintf(text, sizeof text, "  %-26s %12.3f ms\n", member.key.c_str(), value.as_double());
  } else if (member.key == "paper_zflops") {
    std::snprintf(text, sizeof text, "  %-26s %12.4g ZFLOPs, the whole run\n", member.key.c_str(), value.as_double());
  } else {
    std::snprintf(text, sizeof text, "  %-26s %14s %20.0f\n", member.key.c_str(),
                  with_unit(value.as_double(), unit).c_str(), value.as_double());
  }
  return text;
}

}  // namespace

std::string plan_table(const Json& plan) {
  const int64_t ranks = plan.find("ranks")->as_int();
  std::string table = cat(plan.find("name")->as_string(), " on ", ranks, ranks == 1 ? " rank of " : " ranks of ",
                          plan.find("device")->as_string(), "\n");
  const auto section = [&](const char* title, const Json& object, Unit unit) {
    table += cat("\n", title, "\n");
    for (const Json::Member& member : object.as_object()) {
      if (!member.value.is_array()) table += table_row(member, unit);
    }
  };
  section("parameters", *plan.find("parameters"), Unit::kCount);
  section("FLOPs", *plan.find("flops"), Unit::kFlops);
  const Json& memory = *plan.find("memory");
  const std::string most = memory.find("device")->is_null()
                               ? ""
                               : cat(" (of ", with_unit(memory.find("device")->as_double(), Unit::kBytes), ")");
  section(cat("memory of rank 0", most).c_str(), *memory.find("per_rank"), Unit::kBytes);
  section("sent by rank 0", *plan.find("communication"), Unit::kBytes);
  for (const Json::Member& layer : plan.find("dispatch")->as_object()) {
    const std::string title =
        cat("layer ", layer.key, ": ", layer.value.find("blocks")->as_int(), " blocks over the expert ranks by ",
            layer.value.find("dispatch")->as_string(), "; rank 0 would send by");
    Json ways;
    for (const char* way : {"gather", "all_to_all", "naive"}) {
      ways[way] = *layer.value.find(cat(way, "_bytes_per_step"));
    }
    section(title.c_str(), ways, Unit::kBytes);
  }
  section("time of a step at the device's peaks", *plan.find("step_ms"), Unit::kMilliseconds);
  return table;
}

namespace {

std::string format(const char* pattern, auto... values) {
  char text[200];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

// Of the layouts of as many ranks: does it take the least time among those that fit?
bool is_best(const Json& row, const Json& rows) {
  const auto fits = [](const Json& r) { return r.find("fits")->is_null() || r.find("fits")->as_bool(); };
  if (!fits(row)) return false;
  for (const Json& other : rows.as_array()) {
    if (other.find("ranks")->as_int() == row.find("ranks")->as_int() && fits(other) &&
        other.find("step_ms")->as_double() < row.find("step_ms")->as_double()) {
      return false;
    }
  }
  return true;
}

std::string layout_row(const Json& row, bool best) {
  const Json& exposed = *row.find("exposed_ms");
  const auto ms = [](const Json& parts, const char* key) { return parts.find(key)->as_double(); };
  const Json& fits = *row.find("fits");
  const bool too_large = !fits.is_null() && !fits.as_bool();
  return format(
      "%7lld%8lld%11.2f%11.2f%11.2f%10.2f%11.2f%10.2f%12s%11.1f%%%s\n",
      static_cast<long long>(row.find("ranks")->as_int()), static_cast<long long>(row.find("expert")->as_int()),
      ms(row, "step_ms"), ms(row, "forward_backward_ms"), ms(row, "optimizer_ms"), ms(exposed, "tokens"),
      ms(exposed, "gradients"), ms(exposed, "weights"),
      with_unit(row.find("memory_bytes")->as_double(), Unit::kBytes).c_str(), 100 * row.find("efficiency")->as_double(),
      too_large ? "  too large"
      : best    ? "  *"
                : "");
}

}  // namespace

std::string scaling_table(const Json& plan) {
  const Json& rows = *plan.find("layouts");
  const auto text = [&](const char* key) { return plan.find(key)->as_string(); };
  std::string table = cat(text("name"), " on ranks of ", text("device"), ", ", plan.find("tokens_per_rank")->as_int(),
                          " tokens of each rank in a step; one rank alone takes ",
                          format("%.2f ms", plan.find("one_rank_ms")->as_double()), "\nnetwork ", text("network"),
                          "\nrates ", text("rates"), "\n\n", format("%48s%s\n", "", "exposed communication of"));
  table += format("%7s%8s%11s%11s%11s%10s%11s%10s%12s%12s\n", "ranks", "expert", "step, ms", "compute", "optimizer",
                  "tokens", "gradients", "weights", "memory", "efficiency");
  int64_t ranks = rows.as_array().front().find("ranks")->as_int();
  for (const Json& row : rows.as_array()) {
    if (std::exchange(ranks, row.find("ranks")->as_int()) != row.find("ranks")->as_int()) table += "\n";
    table += layout_row(row, is_best(row, rows));
  }
  return table + "* the fastest of as many ranks\n";
}

}  // namespace sffn
