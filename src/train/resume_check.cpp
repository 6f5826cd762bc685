#include "train/resume_check.h"

#include "config/resume.h"
#include "core/log.h"
#include "ffn/registry.h"
#include "train/fingerprint.h"

namespace sffn {
namespace {

// data.train of a resolved configuration.
Json train_paths(const Json& config) {
  const Json* data = config.find("data");
  const Json* train = data == nullptr ? nullptr : data->find("train");
  return train == nullptr ? Json() : *train;
}

}  // namespace

void check_resume(const Communicator& ranks, const Config& config, const Hash128& data, const FoundCheckpoint& found) {
  const ResumeChanges changes = compare_for_resume(found.config, resolved_json(config));
  if (ranks.rank() == 0) {
    for (const std::string& change : changes.loud) log::warn("resume: ", change);
  }
  if (!changes.refused.empty()) {
    throw UsageError(found.folder,
                     cat("does not fit the configuration: ", changes.refused.front(),
                         changes.refused.size() > 1 ? cat(" (and ", changes.refused.size() - 1, " more)") : "",
                         "; use another --run, or --resume never"));
  }
  if (found.step > config.train.steps) {
    throw UsageError("train.steps", cat("is ", config.train.steps, ", but ", found.folder, " is at step ", found.step));
  }
  const Json* dataset = found.trainer.find("dataset");
  const bool same_paths = train_paths(found.config) == train_paths(resolved_json(config));
  if (dataset != nullptr && same_paths && *dataset != Json(data.hex())) {
    throw DamagedError(
        config.data.train.front().path,
        "the training data is not what the checkpoint was trained on; restore it, or name the new data by "
        "another path");
  }
}

void check_fingerprints(const Communicator& ranks, Engine& engine, const FoundCheckpoint& from) {
  const Json* saved = from.trainer.find("fingerprints");
  if (saved == nullptr) {
    if (ranks.rank() == 0) {
      log::warn("resume: trainer.json of ", from.folder,
                " has no fingerprints: whether every block is the one that was ", "saved is not checked");
    }
    return;
  }
  const std::string difference = first_difference(engine.fingerprints(), fingerprints_from(*saved, from.folder));
  if (!difference.empty()) {
    throw DamagedError(from.folder, cat(difference, " is not what was saved: it is missing, there twice or elsewhere"));
  }
}

}  // namespace sffn
