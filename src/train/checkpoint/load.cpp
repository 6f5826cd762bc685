// Choosing a checkpoint, and filling pieces from it.
#include "comm/agree.h"
#include "core/file.h"
#include "core/log.h"
#include "core/safetensors.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/examine.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/optimizer_file.h"
#include "train/checkpoint/piece_table.h"

#include <algorithm>
#include <filesystem>

namespace sffn {
namespace {

namespace fs = std::filesystem;

// Rank 0's listing for all ranks: another host may see a folder later.
std::vector<std::string> list_together(Communicator& comm, const std::string& folder) {
  std::vector<std::string> names;
  together(comm, [&] {
    if (comm.rank() == 0) names = list_directory(folder);
  });
  const Json list = parse_json(broadcast_text(comm, Json(Json::Array(names.begin(), names.end())).dump()), folder,
                               ExitCode::kRunFailed, {SIZE_MAX, 2});
  names.clear();
  for (const Json& name : list.as_array()) names.push_back(name.as_string());
  return names;
}

std::vector<int64_t> steps_of(const std::vector<std::string>& names) {
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    if (const auto step = parse_step_name(name)) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

bool is_trace_of_a_save(const std::string& name) {
  return name == kLatestName || parse_step_name(name) || parse_step_name(name, ".damaged") ||
         parse_step_name(name, ".deleting");
}

struct Newest {
  std::optional<FoundCheckpoint> checkpoint;
  std::vector<int64_t> rejected;
};

Newest newest_sound(Communicator& comm, const std::string& folder, const std::vector<std::string>& names,
                    const ReadOptions& options) {
  Newest result;
  for (const int64_t step : steps_of(names)) {
    const std::string path = folder + "/" + step_name(step);
    const bool real = comm.rank() != 0 || is_real_folder(path);
    Examined examined;
    if (comm.all_true(real))
      examined = examine(comm, path, options);
    else
      examined.faults = {path + ": is not a folder"};
    if (examined.faults.empty()) {
      result.checkpoint = std::move(examined.found);
      break;
    }
    const size_t more = examined.faults.size() - 1;
    if (comm.rank() == 0) {
      log::warn_line(cat("rejected step ", step, ": ", examined.faults[0], more ? cat(" (and ", more, " more)") : ""));
    }
    result.rejected.push_back(step);
  }
  return result;
}

Resume choose_automatically(Communicator& comm, const std::string& run, const ReadOptions& options) {
  const std::string folder = checkpoints_folder(run);
  const std::vector<std::string> names = list_together(comm, folder);
  Newest newest = newest_sound(comm, folder, names, options);
  if (!newest.checkpoint) {
    if (std::any_of(names.begin(), names.end(), is_trace_of_a_save)) {
      throw DamagedError(folder, cat("checkpoints were saved here and none of them is sound; restore one, or start "
                                     "anew with --resume never or another run folder"));
    }
    if (comm.rank() == 0) log::info("fresh start: nothing was saved in ", run);
  }
  return {std::move(newest.checkpoint), std::move(newest.rejected), {}};
}

Resume choose_never(Communicator& comm, const std::string& run) {
  Resume resume;
  for (const std::string& name : list_together(comm, checkpoints_folder(run))) {
    if (is_trace_of_a_save(name)) resume.replaced.push_back(name);
  }
  if (comm.rank() == 0) log::info("fresh start: ", run, " is not resumed");
  return resume;
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Steps of the run that do not lead to the chosen one: newer ones, or all when it lies elsewhere.
std::vector<std::string> other_history(Communicator& comm, const std::string& run, const FoundCheckpoint& chosen) {
  const std::string folder = checkpoints_folder(run);
  std::error_code absent;
  const bool inside = comm.rank() == 0 && fs::equivalent(fs::path(chosen.folder).parent_path(), folder, absent);
  const bool is_inside = comm.max_value(static_cast<char>(inside)) != 0;
  std::vector<std::string> others;
  for (const std::string& name : list_together(comm, folder)) {
    const auto step = parse_step_name(name);
    if (step ? !is_inside || *step > chosen.step : !is_inside && is_trace_of_a_save(name)) others.push_back(name);
  }
  return others;
}

struct Named {
  std::optional<FoundCheckpoint> checkpoint;
  std::string fault;  // where there is none
};
// The step's folder that is given, or the newest sound one of the run's folder.
Named look_at(Communicator& comm, const std::string& given, const ReadOptions& options) {
  const std::string path = without_trailing_slashes(given), folder = checkpoints_folder(path);
  if (comm.max_value(static_cast<char>(exists(folder)))) {
    Newest newest = newest_sound(comm, folder, list_together(comm, folder), options);
    return {std::move(newest.checkpoint), folder + ": holds no sound checkpoint"};
  }
  Examined examined = examine(comm, path, options);
  if (examined.faults.empty()) return {std::move(examined.found), ""};
  return {std::nullopt, examined.faults[0]};
}

Resume choose_exactly(Communicator& comm, const std::string& run, const std::string& path, const ReadOptions& options) {
  Named named = look_at(comm, path, options);
  if (named.checkpoint) {
    Resume resume{std::move(named.checkpoint), {}, {}};
    resume.replaced = other_history(comm, run, *resume.checkpoint);
    return resume;
  }
  const std::string folder = checkpoints_folder(run);
  const Newest newest = newest_sound(comm, folder, list_together(comm, folder), options);
  throw DamagedError("",
                     named.fault + (newest.checkpoint ? "; the newest sound checkpoint is " + newest.checkpoint->folder
                                                      : "; there is no sound checkpoint in " + folder));
}

std::string words(const std::vector<int64_t>& shape) { return Json(Json::Array(shape.begin(), shape.end())).dump(); }

struct InFile {
  std::vector<int64_t> shape;
  std::string dtype;
};

// Both sides are the same on every rank, so all throw alike.
void check_fit(const std::string& place, const PieceTable& wanted, const std::map<std::string, InFile>& in_file) {
  for (const auto& [name, entry] : wanted.tensors) {
    const auto found = in_file.find(name);
    if (found == in_file.end()) throw UsageError(place, "lacks the tensor " + name + " of this configuration");
    if (found->second.shape != entry.shape) {
      throw UsageError(place, cat("tensor ", name, " is ", words(found->second.shape), "; this configuration has ",
                                  words(entry.shape)));
    }
    const char* dtype = entry.dtype == DType::kI32 ? "I32" : "F32";
    if (found->second.dtype != dtype) {
      throw UsageError(place, cat("tensor ", name, " is ", found->second.dtype, "; this configuration has ", dtype));
    }
  }
  for (const auto& [name, tensor] : in_file) {
    if (!wanted.tensors.contains(name)) {
      throw UsageError(place, "holds the tensor " + Json(name).dump() + " that this configuration does not have");
    }
  }
}

void read_moments(Communicator& comm, const FoundCheckpoint& from, const std::vector<Piece>& moments,
                  const ReadOptions& options) {
  const PieceTable table = gather_pieces(comm, moments);
  for (const auto& [name, entry] : table.tensors) cover(name, entry);
  std::optional<OptimizerFiles> files;
  together(comm, [&] { files.emplace(from.folder, static_cast<int>(from.trainer.find("ranks")->as_int())); });
  std::map<std::string, InFile> in_file;
  for (const auto& [name, moment] : files->moments()) in_file[name] = {moment.shape, "F32"};
  check_fit(from.folder + "/" + optimizer_name(0, static_cast<int>(from.trainer.find("ranks")->as_int())), table,
            in_file);
  together(comm, [&] { files->read(moments, options.progress); });
}

}  // namespace

Resume choose_resume(Communicator& comm, const std::string& run, const std::string& mode, const ReadOptions& options) {
  if (mode == "auto") return choose_automatically(comm, run, options);
  if (mode == "never") return choose_never(comm, run);
  return choose_exactly(comm, run, mode, options);
}

FoundCheckpoint find_checkpoint(Communicator& comm, const std::string& path, const ReadOptions& options) {
  Named named = look_at(comm, path, options);
  if (!named.checkpoint) throw DamagedError("", named.fault);
  return std::move(*named.checkpoint);
}

void read_parameters(Communicator& comm, const FoundCheckpoint& from, const std::vector<Piece>& parameters,
                     const ReadOptions& options) {
  const PieceTable table = gather_pieces(comm, parameters);
  for (const auto& [name, entry] : table.tensors) cover(name, entry);
  std::optional<SafetensorsFile> file;
  together(comm, [&] { file.emplace(File::open_beneath(from.folder, kModelName)); });
  std::map<std::string, InFile> in_file;
  for (const SafetensorsEntry& entry : file->entries()) in_file[entry.name] = {entry.shape, entry.dtype};
  check_fit(file->path(), table, in_file);
  together(comm, [&] {
    for (const Piece& piece : parameters) {
      read_in_blocks(*file, *file->find(piece.name), 0, piece, piece.begin, piece.end, options.progress);
    }
  });
}

void resume_from(Communicator& comm, const FoundCheckpoint& from, const std::vector<Piece>& parameters,
                 const std::vector<Piece>& moments, const ReadOptions& options) {
  read_parameters(comm, from, parameters, options);
  read_moments(comm, from, moments, options);
  if (comm.rank() == 0) log::info("resumed from step ", from.step);
}

}  // namespace sffn
