#include "data/corpus.h"

#include "core/file.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

namespace sffn {
namespace {

namespace fs = std::filesystem;

std::string folder_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

std::string beside(const std::string& path, const std::string& name) {
  return (fs::path(path).parent_path() / name).string();
}

using Manifests = std::map<std::string, std::optional<Manifest>>;  // by folder

// Where a manifest lists a shard; null where it does not, or there is no manifest.
struct Listed {
  const SideRecord* side = nullptr;
  const ShardRecord* shard = nullptr;
};
Listed find_listed(const std::optional<Manifest>& manifest, const std::string& path) {
  if (!manifest) return {};
  const std::string name = fs::path(path).filename().string();
  for (const SideRecord* side : {&manifest->train, &manifest->validation}) {
    for (const ShardRecord& shard : side->shards) {
      if (shard.file == name) return {side, &shard};
    }
  }
  return {};
}

std::vector<int64_t> sum_of_counts(const std::set<const SideRecord*>& sides, int64_t vocab_size) {
  std::vector<int64_t> counts(static_cast<size_t>(vocab_size));
  for (const SideRecord* side : sides) {
    for (size_t id = 0; id < side->token_counts.size(); ++id) counts[id] += side->token_counts[id];
  }
  return counts;
}

// Shards that a manifest lists and the pattern would match, but which are not there.
std::vector<std::string> missing_shards(const std::string& pattern, const std::vector<std::string>& paths,
                                        const Manifests& manifests) {
  std::vector<std::string> missing;
  for (const std::string& any : paths) {
    const auto& manifest = manifests.at(folder_of(any));
    if (!manifest) continue;
    for (const SideRecord* side : {&manifest->train, &manifest->validation}) {
      for (const ShardRecord& shard : side->shards) {
        const std::string path = beside(any, shard.file);
        const bool wanted = fnmatch(pattern.c_str(), path.c_str(), FNM_PATHNAME) == 0;
        if (wanted && !std::binary_search(paths.begin(), paths.end(), path)) missing.push_back(path);
      }
    }
  }
  std::sort(missing.begin(), missing.end());
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  return missing;
}

Manifests manifests_of(const std::vector<std::string>& paths) {
  Manifests manifests;
  for (const std::string& path : paths) {
    const std::string folder = folder_of(path);
    if (!manifests.count(folder)) manifests[folder] = find_manifest(folder);
  }
  return manifests;
}

// otherwise: what else than writing them helps where none is there
std::vector<std::string> shard_paths(const std::string& pattern, const char* otherwise = "") {
  std::vector<std::string> paths = glob_paths(pattern);
  if (paths.empty()) throw DamagedError(pattern, cat("no token shard matches; `sffn prepare` writes them", otherwise));
  return paths;
}

TokenizerInfo tokenizer_of(const Manifest& manifest, const std::string& folder) {
  TokenizerInfo info{manifest.tokenizer_name, manifest.tokenizer_hash, "", manifest.vocab_size,
                     static_cast<int32_t>(manifest.end_of_document)};
  if (!manifest.tokenizer_file.empty()) info.path = (fs::path(folder) / manifest.tokenizer_file).string();
  return info;
}

void check_same(const TokenizerInfo& a, const std::string& a_place, const TokenizerInfo& b,
                const std::string& b_place) {
  if (a.vocab_size != b.vocab_size) {
    throw UsageError(b_place, cat("has a vocabulary of ", b.vocab_size, ", and ", a_place, " one of ", a.vocab_size,
                                  "; corpora that are used together need one tokenizer"));
  }
  if (a.hash != b.hash || a.name != b.name || a.end_of_document != b.end_of_document) {
    throw UsageError(b_place, cat("was made with another tokenizer (", b.name, " ", b.hash.hex(), ") than ", a_place,
                                  " (", a.name, " ", a.hash.hex(), "); corpora that are used together need one"));
  }
}

}  // namespace

Corpus::Corpus(const std::string& pattern, int64_t vocab_size) : pattern_(pattern), vocab_size_(vocab_size) {
  SFFN_CHECK(vocab_size >= 0, "a vocabulary of ", vocab_size);
  const std::vector<std::string> paths = shard_paths(pattern);
  const Manifests manifests = manifests_of(paths);
  const std::vector<std::string> missing = missing_shards(pattern, paths, manifests);
  if (!missing.empty()) throw DamagedError(missing.front(), cat("is missing; ", kManifestName, " beside it lists it"));
  std::string first_folder;
  for (const auto& [folder, manifest] : manifests) {
    if (!manifest) continue;
    const TokenizerInfo info = tokenizer_of(*manifest, folder);
    if (tokenizer_) check_same(*tokenizer_, first_folder, info, folder);
    if (!tokenizer_) first_folder = folder, tokenizer_ = info;
  }
  if (tokenizer_ && vocab_size > 0 && tokenizer_->vocab_size > vocab_size) {
    throw UsageError(first_folder, cat("has a vocabulary of ", tokenizer_->vocab_size, ", the model one of ",
                                       vocab_size, "; model.vocab_size \"from_data\" takes that of the data"));
  }
  if (tokenizer_) vocab_size_ = tokenizer_->vocab_size;
  if (vocab_size_ == 0) {
    throw UsageError(pattern, cat("there is no ", kManifestName, " beside the shards; state model.vocab_size"));
  }
  std::set<const SideRecord*> sides;
  for (const std::string& path : paths) {
    const auto& manifest = manifests.at(folder_of(path));
    const auto [side, record] = find_listed(manifest, path);
    sides.insert(side);
    if (manifest && record == nullptr) throw DamagedError(path, cat("is not listed in ", kManifestName, " beside it"));
    shards_.emplace_back(path, record, vocab_size_);
    tokens_ += shards_.back().tokens();
  }
  if (tokens_ == 0) throw UsageError(pattern, "is an empty corpus: its shards hold no token");
  if (!sides.contains(nullptr)) token_counts_ = sum_of_counts(sides, vocab_size_);
}

Hash128 Corpus::fingerprint() const {
  HashStream hash;
  for (const TokenFile& shard : shards_) {
    const Hash128 one = shard.fingerprint();
    const int64_t tokens = shard.tokens();
    hash.update(&one, sizeof one);
    hash.update(&tokens, sizeof tokens);
  }
  return hash.digest();
}

void check_same_tokenizer(const Corpus& a, const Corpus& b) {
  if (a.tokenizer() && b.tokenizer()) check_same(*a.tokenizer(), a.pattern(), *b.tokenizer(), b.pattern());
}

int64_t vocab_size_from_data(const std::vector<std::string>& patterns) {
  SFFN_CHECK(!patterns.empty(), "no corpus to take the vocabulary from");
  int64_t largest = 0;
  for (const std::string& pattern : patterns) {
    for (const auto& [folder, manifest] :
         manifests_of(shard_paths(pattern, ", or state model.vocab_size: it is from_data"))) {
      if (manifest) largest = std::max(largest, manifest->vocab_size);
    }
  }
  if (largest == 0) {
    throw UsageError(patterns.front(),
                     cat("there is no ", kManifestName, " beside the shards; state model.vocab_size"));
  }
  return largest;
}

std::vector<std::string> find_faults(const std::string& pattern, int64_t vocab_size) {
  const std::vector<std::string> paths = shard_paths(pattern);
  std::vector<std::string> faults;
  Manifests manifests;
  for (const std::string& path : paths) {
    const std::string folder = folder_of(path);
    if (manifests.count(folder)) continue;
    try {
      manifests[folder] = find_manifest(folder);
    } catch (const DamagedError& error) {
      faults.push_back(error.what());
      manifests[folder] = std::nullopt;
    }
  }
  for (const std::string& path : missing_shards(pattern, paths, manifests)) faults.push_back(path + ": is missing");
  for (const std::string& path : paths) {
    const auto& manifest = manifests.at(folder_of(path));
    const ShardRecord* record = find_listed(manifest, path).shard;
    if (manifest && record == nullptr) faults.push_back(cat(path, ": is not listed in ", kManifestName));
    const int64_t stated = manifest ? manifest->vocab_size : vocab_size;
    try {
      const TokenFile shard(path, record, stated > 0 ? stated : std::numeric_limits<int64_t>::max());
      for (std::string& fault : shard.find_faults()) faults.push_back(std::move(fault));
    } catch (const DamagedError& error) {
      faults.push_back(error.what());
    }
  }
  return faults;
}

}  // namespace sffn
