#include "core/file.h"
#include "core/log.h"
#include "train/checkpoint/checkpoint.h"

namespace sffn {
namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr size_t kMaxLine = size_t{16} << 20;

// Calls line(text) for each line that ends; whatever follows the last newline is torn and counts as one more line.
template <class Line>
void each_line(const File& file, Line&& line) {
  std::string pending, buffer(kReadBytes, '\0');
  for (uint64_t offset = 0;;) {
    const size_t got = file.read_some(buffer.data(), buffer.size(), offset);
    if (got == 0) break;
    offset += got;
    pending.append(buffer, 0, got);
    size_t start = 0;
    for (size_t end; (end = pending.find('\n', start)) != std::string::npos; start = end + 1) {
      line(std::string_view(pending).substr(start, end - start), true);
    }
    pending.erase(0, start);
    if (pending.size() > kMaxLine) throw DamagedError(file.path(), cat("has a line over ", kMaxLine, " bytes"));
  }
  if (!pending.empty()) line(pending, false);
}

bool is_kept(std::string_view text, int64_t step) {
  try {
    const Json record = parse_json(text, "metrics", ExitCode::kDamaged);
    const Json* at = record.find("step");
    return at != nullptr && at->is_int() && at->as_int() <= step;
  } catch (const Error&) {
    return false;  // not a record
  }
}

}  // namespace

void trim_metrics(const std::string& path, int64_t step) {
  if (!exists(path)) return;
  const std::string temporary = path + ".tmp";
  const File file = File::open(path, File::Mode::kRead);
  File kept = File::open(temporary, File::Mode::kTruncate);
  int64_t cut = 0;
  each_line(file, [&](std::string_view text, bool complete) {
    if (complete && is_kept(text, step))
      kept.write(text.data(), text.size()), kept.write("\n", 1);
    else
      ++cut;
  });
  kept.sync();
  kept.close();
  if (cut == 0) return remove_tree(temporary);
  rename_path(temporary, path);
  log::info(path, ": ", cut, " records beyond step ", step, " were cut");
}

}  // namespace sffn
