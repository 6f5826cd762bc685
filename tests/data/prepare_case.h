// Texts to prepare, and what came out.
#pragma once
#include "core/random.h"
#include "data/corpus.h"
#include "data/fixture.h"
#include "data/prepare.h"
#include "data/tokenizer.h"
#include "support/catch.h"

#include <map>
#include <string>
#include <vector>

namespace sffn::test {

inline std::string words(uint64_t seed, size_t count) {
  static const char* kWords[] = {"alpha", "beta", "gamma", "delta", "model", "of", "the", "and"};
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += kWords[random_bits(random_key(seed, RandomSite::kRandomTokens, 0, 0), i) % 8];
    text += i % 11 == 10 ? "\n" : i % 37 == 36 ? "\n\n" : " ";
  }
  return text;
}

// `count` small files, one of them empty, one a copy of another, and one of 600 kB.
inline void write_texts(const std::string& folder, size_t count) {
  make_directories(folder);
  for (size_t i = 0; i < count; ++i) write_text(cat(folder, "/t", 100 + i, ".txt"), words(i, 5 + i * 3 % 200));
  write_text(folder + "/copy.md", words(3, 5 + 9));
  write_text(folder + "/empty.txt", "");
  write_text(folder + "/large.txt", words(99, 120000));
}

inline PrepareOptions options_of(const std::string& input, const std::string& out) {
  PrepareOptions options;
  options.inputs = {input};
  options.out = out;
  options.name = "test";
  options.val_fraction = 0.2;
  options.shard_tokens = 50'000;
  options.jobs = 2;
  return options;
}

inline PrepareSummary prepare_quietly(const PrepareOptions& options) { return prepare(options, nullptr); }

inline std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const std::string& name : list_directory(folder)) files[name] = read_text(folder + "/" + name);
  return files;
}

// Every id of a shard.
inline std::vector<int32_t> ids_of(const TokenFile& shard) {
  std::vector<int32_t> ids(static_cast<size_t>(shard.tokens()));
  shard.read(ids.data(), 0, shard.tokens());
  return ids;
}

// The documents of one side, split at its end-of-document ids.
inline std::vector<std::string> texts_of(const std::string& pattern) {
  const Corpus corpus(pattern);
  const auto tokenizer = load_tokenizer(*corpus.tokenizer());
  std::vector<std::string> texts(1);
  for (const TokenFile& shard : corpus.shards()) {
    for (const int32_t id : ids_of(shard)) {
      texts.back() += tokenizer->text_of(id);
      if (id == tokenizer->end_of_document()) texts.emplace_back();
    }
  }
  CHECK(texts.back().empty());
  texts.pop_back();
  return texts;
}

}  // namespace sffn::test
