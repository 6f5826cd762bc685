#include "data/prepare_journal.h"

#include "core/file.h"

namespace sffn {
namespace {

constexpr size_t kMaxJournalBytes = size_t{128} << 20;

Json to_json(const SideProgress& progress) {
  Json json = Json::object();
  json["record"] = to_json(progress.record);
  json["cut_tokens"] = progress.cut_tokens;
  return json;
}

SideProgress parse_progress(const Json* json, const std::string& place, int64_t vocab_size) {
  const Json* record = json == nullptr ? nullptr : json->find("record");
  const Json* cut = json == nullptr ? nullptr : json->find("cut_tokens");
  if (record == nullptr || cut == nullptr || !cut->is_int() || cut->as_int() < 0) {
    throw DamagedError(place, "is not a journal of this version");
  }
  return {parse_side(*record, place, vocab_size), cut->as_int()};
}

}  // namespace

void write_journal(const std::string& folder, const PrepareJournal& journal) {
  Json json = Json::object();
  json["plan"] = to_json(journal.plan).dump();
  json["train"] = to_json(journal.train);
  json["validation"] = to_json(journal.validation);
  write_file_atomically(folder + "/" + kJournalName, json.dump(1));
}

std::optional<PrepareJournal> find_journal(const std::string& folder) {
  const std::string path = folder + "/" + kJournalName;
  if (!exists(path)) return std::nullopt;
  const Json json = parse_json(read_file(path, kMaxJournalBytes, ExitCode::kDamaged), path, ExitCode::kDamaged);
  const Json* plan = json.find("plan");
  if (plan == nullptr || !plan->is_string()) throw DamagedError(path, "is not a journal of this version");
  PrepareJournal journal{parse_manifest(plan->as_string(), path), {}, {}};
  journal.train = parse_progress(json.find("train"), path, journal.plan.vocab_size);
  journal.validation = parse_progress(json.find("validation"), path, journal.plan.vocab_size);
  return journal;
}

}  // namespace sffn
