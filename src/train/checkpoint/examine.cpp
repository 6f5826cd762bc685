#include "train/checkpoint/examine.h"

#include "comm/agree.h"
#include "core/file.h"
#include "core/safetensors.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/optimizer_file.h"

#include <algorithm>
#include <filesystem>
#include <set>

namespace sffn {
namespace {

constexpr size_t kMaxJson = size_t{1} << 20;  // config.json and trainer.json

// What rank 0 saw, for all ranks.
struct Survey {
  std::vector<std::string> faults;
  std::string record;                // the text of checksums.json; empty when it is no record
  std::set<std::string> unreadable;  // files whose blocks are not worth comparing
  Json config, trainer;
};

std::string read_beneath(const std::string& folder, const char* name, size_t limit) {
  const File file = File::open_beneath(folder, name);
  const uint64_t size = file.size();
  if (size > limit) throw DamagedError(file.path(), cat("is ", size, " bytes; at most ", limit, " are read"));
  std::string text(size, '\0');
  file.read_exact(text.data(), text.size(), 0);
  return text;
}

class Surveyor {
 public:
  explicit Surveyor(const std::string& folder) : folder_(folder) {}

  Survey run() {
    CommitRecord record;
    if (!check([&] { record = read_record(); })) return std::move(survey_);
    for (const FileRecord& file : record.files) {
      if (!check([&] { check_size(file); })) survey_.unreadable.insert(file.name);
    }
    if (is_readable(kConfigName)) check([&] { survey_.config = read_object(kConfigName); });
    if (is_readable(kTrainerName)) check([&] { check_trainer(record); });
    if (is_readable(kModelName)) check([&] { check_model(); });
    const bool all = std::all_of(record.files.begin(), record.files.end(),
                                 [&](const FileRecord& file) { return is_readable(file.name); });
    if (all) check([&] { OptimizerFiles(folder_, record.ranks); });
    return std::move(survey_);
  }

 private:
  template <class Work>
  bool check(Work&& work) {
    const Failure failure = attempt(work);
    if (failure) survey_.faults.push_back(failure.what);
    return !failure;
  }
  bool is_readable(const std::string& name) const { return !survey_.unreadable.contains(name); }

  CommitRecord read_record() {
    const std::string text = read_beneath(folder_, kRecordName, kMaxRecordBytes);
    const std::string place = folder_ + "/" + kRecordName;
    CommitRecord record = parse_record(text, place);
    const std::optional<int64_t> step = parse_step_name(std::filesystem::path(folder_).filename().string());
    if (step && *step != record.step) throw DamagedError(place, cat("is of step ", record.step));
    survey_.record = text;
    return record;
  }

  void check_size(const FileRecord& expected) {
    const File file = File::open_beneath(folder_, expected.name);
    if (file.size() != expected.bytes) {
      throw DamagedError(file.path(), cat("ends at offset ", file.size(), "; ", expected.bytes, " bytes were saved"));
    }
  }

  Json read_object(const char* name) {
    const std::string place = folder_ + "/" + name;
    Json json = parse_json(read_beneath(folder_, name, kMaxJson), place, ExitCode::kDamaged);
    if (!json.is_object()) throw DamagedError(place, "is not a JSON object");
    return json;
  }

  void check_trainer(const CommitRecord& record) {
    survey_.trainer = read_object(kTrainerName);
    const auto is = [&](const char* key, int64_t value) {
      const Json* json = survey_.trainer.find(key);
      return json && json->is_int() && json->as_int() == value;
    };
    if (!is("step", record.step) || !is("ranks", record.ranks)) {
      throw DamagedError(folder_ + "/" + kTrainerName,
                         cat("does not say step ", record.step, " and ", record.ranks, " ranks"));
    }
  }

  void check_model() {
    const SafetensorsFile model(File::open_beneath(folder_, kModelName));
    for (const SafetensorsEntry& entry : model.entries()) {
      if (entry.dtype != "F32" && entry.dtype != "I32") {
        throw DamagedError(model.path(), "tensor " + Json(entry.name).dump() + " is neither F32 nor I32");
      }
    }
  }

  const std::string& folder_;
  Survey survey_;
};

Survey share(Communicator& comm, const Survey& mine) {
  Json text = Json::object();
  if (comm.rank() == 0) {
    text["faults"] = Json::Array(mine.faults.begin(), mine.faults.end());
    text["record"] = mine.record;
    text["unreadable"] = Json::Array(mine.unreadable.begin(), mine.unreadable.end());
    text["config"] = mine.config;
    text["trainer"] = mine.trainer;
  }
  const Json all = parse_json(broadcast_text(comm, text.dump()), "survey", ExitCode::kRunFailed, {SIZE_MAX, 80});
  Survey survey;
  for (const Json& fault : all.find("faults")->as_array()) survey.faults.push_back(fault.as_string());
  for (const Json& name : all.find("unreadable")->as_array()) survey.unreadable.insert(name.as_string());
  survey.record = all.find("record")->as_string();
  survey.config = *all.find("config");
  survey.trainer = *all.find("trainer");
  return survey;
}

// Blocks are dealt to the ranks in turn, over all files.
std::vector<std::string> compare_blocks(Communicator& comm, const std::string& folder, const CommitRecord& record,
                                        const Survey& survey, const std::function<void()>& progress) {
  std::vector<std::string> faults;
  std::string block;
  uint64_t turn = 0;
  for (const FileRecord& expected : record.files) {
    if (survey.unreadable.contains(expected.name)) continue;
    const Failure failure = attempt([&] {
      const File file = File::open_beneath(folder, expected.name);
      for (size_t i = 0; i < expected.blocks.size(); ++i) {
        if (turn++ % comm.size() != static_cast<uint64_t>(comm.rank())) continue;
        const uint64_t offset = i * kChecksumBlock, bytes = std::min(kChecksumBlock, expected.bytes - offset);
        block.resize(bytes);
        file.read_exact(block.data(), bytes, offset);
        if (hash128(block) != expected.blocks[i]) {
          faults.push_back(cat(file.path(), ": bytes [", offset, ", ", offset + bytes, ") differ from what was saved"));
        }
        if (progress) progress();
      }
    });
    if (failure) faults.push_back(failure.what);
  }
  return faults;
}

}  // namespace

Examined examine(Communicator& comm, const std::string& folder, const ReadOptions& options) {
  Survey survey;
  if (comm.rank() == 0) survey = Surveyor(folder).run();
  survey = share(comm, survey);
  Examined result{std::move(survey.faults), {folder, 0, std::move(survey.config), std::move(survey.trainer)}, 0};
  if (survey.record.empty()) return result;
  const CommitRecord record = parse_record(survey.record, folder + "/" + kRecordName);
  result.found.step = record.step;
  result.ranks = record.ranks;
  if (!options.verify) return result;
  const std::vector<std::string> mine = compare_blocks(comm, folder, record, survey, options.progress);
  for (const std::string& text : gather_texts(comm, Json(Json::Array(mine.begin(), mine.end())).dump())) {
    const Json list = parse_json(text, "faults", ExitCode::kRunFailed);
    for (const Json& fault : list.as_array()) result.faults.push_back(fault.as_string());
  }
  return result;
}

std::vector<std::string> verify_checkpoint(const std::string& folder) {
  return examine(*make_self_communicator(), folder, {}).faults;
}

std::optional<int64_t> sound_step(const std::string& folder) {
  const Examined examined = examine(*make_self_communicator(), folder, {});
  return examined.faults.empty() ? std::optional(examined.found.step) : std::nullopt;
}

}  // namespace sffn
