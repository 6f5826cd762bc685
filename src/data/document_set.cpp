#include "data/document_set.h"

#include "core/error.h"
#include "data/documents.h"
#include "data/ordered_workers.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>

namespace sffn {
namespace {

constexpr uint64_t kReportBytes = uint64_t{8} << 20;
constexpr size_t kReportDocuments = 4096;

// Reads one file; add(hashes, counts, bytes of the file) takes over what was found since the last call.
template <class Add>
void scan_file(const InputFile& file, Add&& add) {
  DocumentReader reader(file.path);
  std::vector<Hash128> hashes;
  DocumentCounts counts;
  uint64_t reported = 0;
  const auto report = [&] {
    add(hashes, counts, reader.position() - reported);
    hashes.clear();
    counts = {};
    reported = reader.position();
  };
  for (std::string_view text; reader.next(text);) {
    counts.empty += text.empty();
    counts.bytes += static_cast<int64_t>(text.size());
    if (!text.empty()) hashes.push_back(hash128(text));
    if (reader.position() - reported >= kReportBytes || hashes.size() >= kReportDocuments) report();
  }
  report();
}

}  // namespace

DocumentSet::DocumentSet(const std::vector<InputFile>& files, int jobs, const std::function<void(uint64_t)>& on_bytes) {
  uint64_t most = files.size();
  for (const InputFile& file : files) most += file.size / kMinCutBytes;
  hashes_.reserve(most);  // memory is used as it is written: plain text never makes the list grow
  std::mutex mutex;
  std::atomic<size_t> next{0};
  const auto add = [&](const std::vector<Hash128>& hashes, const DocumentCounts& counts, uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    hashes_.insert(hashes_.end(), hashes.begin(), hashes.end());
    counts_.empty += counts.empty;
    counts_.bytes += counts.bytes;
    on_bytes(bytes);
  };
  const auto scan_files = [&] {
    for (size_t i; (i = next++) < files.size();) scan_file(files[i], add);
  };
  run_threads(jobs, scan_files, [&] { next = files.size(); });

  counts_.documents = size();
  std::sort(hashes_.begin(), hashes_.end());
  hashes_.erase(std::unique(hashes_.begin(), hashes_.end()), hashes_.end());
  counts_.duplicates = counts_.documents - size();
}

std::string DocumentSet::split(double val_fraction) {
  if (size() == 0) throw UsageError("--input", "every file is empty; there is no document to prepare");
  if (size() == 1) {
    throw UsageError("--input",
                     "holds a single document; training and validation need at least two (a file is one "
                     "document, text over 256 KiB several)");
  }
  const auto below = [&](const Hash128& hash) {
    return std::ldexp(static_cast<double>(hash.high), -64) < val_fraction;
  };
  validation_ = std::partition_point(hashes_.begin(), hashes_.end(), below) - hashes_.begin();
  if (validation_ == 0) {
    validation_ = 1;
    return "no document falls to validation by its hash: the one with the smallest hash goes there";
  }
  if (validation_ == size()) {
    --validation_;
    return "no document falls to training by its hash: the one with the largest hash goes there";
  }
  return "";
}

int64_t DocumentSet::index_of(const Hash128& hash) const {
  const auto at = std::lower_bound(hashes_.begin(), hashes_.end(), hash);
  return at != hashes_.end() && *at == hash ? at - hashes_.begin() : -1;
}

Hash128 DocumentSet::hash() const { return hash128(hashes_.data(), hashes_.size() * sizeof(Hash128)); }

}  // namespace sffn
