#include "config/resume.h"

#include "config/reader.h"

#include <map>

namespace sffn {
namespace {

enum class Change { kSilent, kLoud, kRefused };

struct Rule {
  std::string_view path;  // a key, or all keys below it
  Change change;
};

// The longest path that matches decides; what no rule names is refused.
constexpr Rule kRules[] = {
    {"name", Change::kSilent},
    {"backend", Change::kSilent},
    {"parallel", Change::kSilent},
    {"evaluation", Change::kSilent},
    {"checkpoint", Change::kSilent},
    {"log", Change::kSilent},
    {"data", Change::kLoud},
    {"data.validation", Change::kSilent},
    {"optimizer", Change::kLoud},
    {"optimizer.type", Change::kRefused},
    {"train.steps", Change::kSilent},
    {"train.micro_batch", Change::kSilent},
    {"train.recompute", Change::kSilent},
    {"train.watchdog", Change::kSilent},
    {"train.precision", Change::kLoud},
    {"train.deterministic", Change::kLoud},
    {"model.vocab_multiple", Change::kSilent},
    {"model.init", Change::kSilent},
    {"model.dropout", Change::kLoud},
};

// Keys of the entries of model.sparse_ffn, by their end: how a layer is computed is no part of the model, and what
// pulls on its load may be turned.
constexpr Rule kEntryRules[] = {
    {".expert_compute", Change::kSilent}, {".balance.weight", Change::kLoud}, {".balance.rate", Change::kLoud}};

Change change_of(const std::string& path) {
  for (const Rule& rule : kEntryRules) {
    if (path.starts_with("model.sparse_ffn.") && path.ends_with(rule.path)) return rule.change;
  }
  Change change = Change::kRefused;
  size_t longest = 0;
  for (const Rule& rule : kRules) {
    const bool below =
        path.starts_with(rule.path) && (path.size() == rule.path.size() || path[rule.path.size()] == '.');
    if (below && rule.path.size() > longest) longest = rule.path.size(), change = rule.change;
  }
  return change;
}

// Every value that is neither an object nor a list, by its path.
void flatten(const Json& json, const std::string& path, std::map<std::string, Json>& values) {
  const auto below = [&](const auto& key) { return path.empty() ? cat(key) : cat(path, ".", key); };
  if (json.is_object()) {
    for (const Json::Member& member : json.as_object()) flatten(member.value, below(member.key), values);
  } else if (json.is_array()) {
    for (size_t i = 0; i < json.as_array().size(); ++i) flatten(json.as_array()[i], below(i), values);
  } else {
    values[path] = json;
  }
}

bool equal(const Json& a, const Json& b) {
  if (a.is_int() && b.is_int()) return a.as_int() == b.as_int();  // exact beyond 2^53
  return a.is_number() && b.is_number() ? a.as_double() == b.as_double() : a == b;
}

}  // namespace

ResumeChanges compare_for_resume(const Json& saved, const Json& current) {
  std::map<std::string, Json> before, now;
  flatten(saved, "", before);
  flatten(current, "", now);
  std::map<std::string, Json> paths = before;
  paths.insert(now.begin(), now.end());
  ResumeChanges changes;
  for (const auto& [path, value] : paths) {
    const auto was = before.find(path), is = now.find(path);
    if (was != before.end() && is != now.end() && equal(was->second, is->second)) continue;
    const Change change = change_of(path);
    if (change == Change::kSilent) continue;
    const auto text = [&](auto value, const auto& values) {
      return value == values.end() ? std::string("absent") : printable(value->second.dump());
    };
    (change == Change::kLoud ? changes.loud : changes.refused)
        .push_back(cat(printable(path), ": ", text(was, before), " in the checkpoint, ", text(is, now), " now"));
  }
  return changes;
}

}  // namespace sffn
