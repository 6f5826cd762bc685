#include "train/training_data.h"

#include <numeric>

namespace sffn {

BatchSource open_training_data(const Config& config) {
  if (config.data.train.empty()) {
    throw UsageError("data.train", "is empty; name at least one corpus, as in [{\"path\": \"data/x/train-*.bin\"}]");
  }
  std::vector<CorpusChoice> corpora;
  for (const CorpusConfig& corpus : config.data.train) corpora.push_back({corpus.path, corpus.weight});
  BatchOptions options;
  options.context = config.model.context;
  options.sequences_per_step = config.sequences_per_step();
  options.vocab_size = config.model.vocab_size;
  options.seed = config.train.seed;
  options.document_mask = config.data.document_mask;
  return BatchSource(corpora, options);
}

std::map<std::string, EvalSource> open_validation_data(const Config& config) {
  std::map<std::string, EvalSource> sets;
  for (const auto& [name, path] : config.data.validation) {
    EvalOptions options;
    options.context = config.model.context;
    options.max_tokens = config.evaluation.tokens;
    options.vocab_size = config.model.vocab_size;
    options.document_mask = config.data.document_mask;
    sets.emplace(name, EvalSource(path, options));
  }
  return sets;
}

Json tokenizer_record(const BatchSource& data) {
  const std::optional<TokenizerInfo>& info = data.corpora().front().tokenizer();
  if (!info) return {};
  Json record;
  record["name"] = info->name;
  record["hash"] = info->hash.hex();
  record["path"] = info->path;
  record["vocab_size"] = info->vocab_size;
  record["end_of_document"] = int64_t{info->end_of_document};
  return record;
}

void require_tokenizer(const Json& trainer, const Corpus& data) {
  const Json* trained = trainer.find("tokenizer");
  const Json* hash = trained == nullptr || trained->is_null() ? nullptr : trained->find("hash");
  if (hash == nullptr || !data.tokenizer() || *hash == Json(data.tokenizer()->hash.hex())) return;
  const Json* name = trained->find("name");
  throw UsageError(data.pattern(), cat("was made with tokenizer ", data.tokenizer()->name, " (",
                                       data.tokenizer()->hash.hex(), "), and the checkpoint was trained on ",
                                       name != nullptr && name->is_string() ? name->as_string() : "another",
                                       hash->is_string() ? cat(" (", hash->as_string(), ")") : ""));
}

std::vector<double> training_token_counts(const Config& config) {
  const std::vector<CorpusConfig>& corpora = config.data.train;
  std::vector<double> total(static_cast<size_t>(config.model.vocab_size));
  for (const CorpusConfig& choice : corpora) {
    const std::vector<int64_t> counts = Corpus(choice.path, config.model.vocab_size).token_counts();
    if (counts.empty()) return {};
    const auto tokens = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
    const double scale = corpora.size() == 1 ? 1 : choice.weight / tokens;
    for (size_t id = 0; id < counts.size(); ++id) total[id] += scale * static_cast<double>(counts[id]);
  }
  return corpora.empty() ? std::vector<double>() : total;
}

}  // namespace sffn
