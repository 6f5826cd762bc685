#include "comm/agree.h"
#include "core/fault.h"
#include "core/file.h"
#include "core/log.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/record.h"

#include <algorithm>
#include <utility>

namespace sffn {
namespace {

void warn_of(const Failure& failure) {
  if (failure) log::warn(failure.what);
}

// What a killed run left half done. Only names of these exact forms; links are removed, not followed.
void remove_leftovers(const std::string& folder) {
  for (const std::string& name : list_directory(folder)) {
    const bool leftover = parse_step_name(name, ".tmp") || parse_step_name(name, ".deleting") ||
                          name == std::string(kLatestName) + ".tmp";
    if (leftover) warn_of(attempt([&] { remove_tree(folder + "/" + name); }));
  }
}

// The whole history that is not continued moves to one new folder, with its metrics when nothing of it is continued.
void set_aside(const std::string& run, const Resume& resume) {
  if (resume.replaced.empty()) return;
  int k = 1;
  while (exists(cat(run, "/checkpoints.replaced-", k))) ++k;
  const std::string to = cat(run, "/checkpoints.replaced-", k);
  make_directories(to);
  for (const std::string& name : resume.replaced) {
    if (exists(checkpoints_folder(run) + "/" + name))
      rename_path(checkpoints_folder(run) + "/" + name, to + "/" + name);
  }
  if (!resume.checkpoint && exists(run + "/metrics.jsonl")) rename_path(run + "/metrics.jsonl", to + "/metrics.jsonl");
  sync_directory(checkpoints_folder(run));
  sync_directory(run);
  log::info("moved ", resume.replaced.size(), " entries of ", checkpoints_folder(run), " to ", to);
}

// A record and files of the recorded sizes; contents are not compared.
bool looks_sound(const std::string& folder) {
  if (!is_real_folder(folder)) return false;
  return !attempt([&] {
    const std::string path = folder + "/" + kRecordName;
    for (const FileRecord& file : parse_record(read_file(path, kMaxRecordBytes, ExitCode::kDamaged), path).files) {
      if (File::open_beneath(folder, file.name).size() != file.bytes) throw DamagedError(folder, "torn");
    }
  });
}

}  // namespace

CheckpointWriter::CheckpointWriter(Communicator& comm, std::string run, CheckpointWriterOptions options,
                                   const Resume& resume)
    : comm_(comm),
      run_(std::move(run)),
      folder_(checkpoints_folder(run_)),
      options_(std::move(options)),
      rejected_(resume.rejected.begin(), resume.rejected.end()) {
  if (resume.checkpoint) {
    newest_ = resume.checkpoint->step;
    sound_.insert(*newest_);
  }
  together(comm_, [&] {
    if (comm_.rank() != 0) return;
    make_directories(folder_);
    remove_leftovers(folder_);
    set_aside(run_, resume);
  });
}

bool CheckpointWriter::save(int64_t step, const CheckpointContents& contents, bool last) {
  const std::string folder = folder_ + "/" + step_name(step);
  const Failure failure = attempt([&] { write_checkpoint(comm_, folder, step, contents, options_.progress); });
  if (failure.code == ExitCode::kUsage) failure.raise();
  if (failure) {
    ++failures_;
    const std::string line = cat("save of step ", step, " failed: ", failure.what);
    if (last || failures_ >= options_.failure_limit) {
      throw RunError("", line + (last ? "" : cat(" (", failures_, " saves in a row)")));
    }
    if (comm_.rank() == 0) log::warn(line);
    return false;
  }
  failures_ = 0;
  rejected_.erase(step);
  sound_.insert(step);
  newest_ = step;
  if (comm_.rank() == 0) log::info("saved step ", step);
  update_latest(step);
  remove_old(step);
  return true;
}

void CheckpointWriter::update_latest(int64_t step) {
  const Failure failure = attempt([&] {
    fault_point("before_latest", step, folder_ + "/" + kLatestName);
    if (comm_.rank() == 0) write_file_atomically(folder_ + "/" + kLatestName, step_name(step) + "\n");
    fault_point("after_latest", step, folder_ + "/" + kLatestName);
  });
  if (failure && !std::exchange(warned_of_latest_, true)) log::warn(failure.what);
}

void CheckpointWriter::remove_old(int64_t step) {
  if (comm_.rank() != 0) {
    warn_of(attempt([&] { fault_point("mid_delete", step, folder_); }));
    return;
  }
  warn_of(attempt([&] {
    int64_t kept = 0;
    for (const int64_t old : committed_steps(folder_)) {
      const std::string path = folder_ + "/" + step_name(old);
      if (old > step || rejected_.contains(old) || (!sound_.contains(old) && !looks_sound(path))) continue;
      if (kept++ < std::max<int64_t>(options_.keep, 1)) continue;
      if (options_.keep_every > 0 && old % options_.keep_every == 0) continue;
      rename_path(path, path + ".deleting");
      fault_point("mid_delete", step, path);
      remove_tree(path + ".deleting");
    }
  }));
}

}  // namespace sffn
