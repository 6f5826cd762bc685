// A corpus: the token shards that one glob matches, in sorted order, with what their manifests say of them.
#pragma once
#include "data/token_file.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sffn {

// What a manifest says of the ids. Corpora that are used together must agree on it.
struct TokenizerInfo {
  std::string name;
  Hash128 hash;
  std::string path;  // of the model file; empty where the tokenizer needs none
  int64_t vocab_size = 0;
  int32_t end_of_document = 0;
};

class Corpus {
 public:
  // `vocab_size` is the model's, 0 to take the manifest's. Throws
  //   DamagedError: nothing matches; a shard that the manifest lists and the pattern matches is not there; a shard
  //                 beside a manifest that does not list it; what TokenFile and parse_manifest throw;
  //   UsageError:   no token at all; manifests that disagree; a manifest's vocabulary above the model's;
  //                 vocab_size 0 without a manifest.
  explicit Corpus(const std::string& pattern, int64_t vocab_size = 0);

  const std::string& pattern() const { return pattern_; }
  const std::vector<TokenFile>& shards() const { return shards_; }
  int64_t tokens() const { return tokens_; }
  int64_t vocab_size() const { return vocab_size_; }                            // every id is below
  const std::optional<TokenizerInfo>& tokenizer() const { return tokenizer_; }  // none without a manifest
  // [vocabulary]: how often each id stands in the sides (train, validation) that the shards are of, by their manifests;
  // empty where a shard has none.
  const std::vector<int64_t>& token_counts() const { return token_counts_; }
  Hash128 fingerprint() const;  // of the content: equal for equal shards in the same order, wherever they lie

 private:
  std::string pattern_;
  std::vector<TokenFile> shards_;
  int64_t tokens_ = 0;
  int64_t vocab_size_ = 0;
  std::optional<TokenizerInfo> tokenizer_;
  std::vector<int64_t> token_counts_;
};

// Throws UsageError naming both where a and b have manifests that disagree on tokenizer or vocabulary.
void check_same_tokenizer(const Corpus& a, const Corpus& b);

// The largest vocabulary the manifests beside these globs state: what "vocab_size": "from_data" means.
int64_t vocab_size_from_data(const std::vector<std::string>& patterns);

// Every fault of the shards that match: missing, damaged, wrong checksum, wrong ids. Empty when all is well.
// vocab_size 0: the manifest's; ids are not judged where there is neither.
std::vector<std::string> find_faults(const std::string& pattern, int64_t vocab_size = 0);

}  // namespace sffn
