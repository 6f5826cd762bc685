#include "data/prepare.h"

#include "core/file.h"
#include "data/document_set.h"
#include "data/documents.h"
#include "data/ordered_workers.h"
#include "data/prepare_journal.h"
#include "data/shard_writer.h"
#include "data/token_file.h"
#include "data/utf8.h"

#include <sched.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <utility>

namespace sffn {
namespace {

constexpr char kModelName[] = "tokenizer.model";
constexpr size_t kMaxModelBytes = size_t{256} << 20;
constexpr size_t kBatchBytes = size_t{1} << 20;
constexpr int64_t kMaxShardTokensAsked = 1'000'000'000;  // llm.c's reader holds file offsets in 32 bits
constexpr int64_t kSampleBytes = int64_t{16} << 20;      // of text to train a tokenizer on, or
constexpr int64_t kSampleBytesPerPiece = 1024;           // so much a piece, if that is more

// Holds the output folder for one process; ends with the process.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder)
      : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0) throw UsageError(folder, cat("cannot be opened: ", std::strerror(errno)));
    if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    close(descriptor_);
    throw UsageError(folder, "is in use by another `sffn prepare`");
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() { close(descriptor_); }

 private:
  int descriptor_;
};

// About 1 MiB of documents in order, and their ids.
struct TextBatch {
  struct Document {
    size_t bytes = 0;
    bool validation = false;
    bool written = false;  // by the interrupted run
    size_t ids_end = 0;
  };
  std::string text;
  std::vector<Document> documents;
  std::vector<int32_t> ids;
  int64_t invalid_bytes = 0;
  uint64_t file_bytes = 0;
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& on_progress)
      : options_(options), on_progress_(on_progress) {}
  PrepareSummary run();

 private:
  void check_options();
  void load_given_tokenizer();
  // The key in which what stands in the folder differs from what was asked for, or "".
  std::string difference(const Manifest& found) const;
  [[noreturn]] void refuse(const std::string& key) const;
  bool is_complete(const std::optional<Manifest>& found) const;
  void hash_documents();
  void plan();
  void resume(const PrepareJournal& journal);
  void train_tokenizer();
  std::string sample_text();
  void tokenize();
  bool take(TextBatch& batch);
  void work(TextBatch& batch) const;
  void begin_phase(const char* name);
  void advance(uint64_t bytes);
  std::string path(const std::string& name) const { return options_.out + "/" + name; }

  PrepareOptions options_;
  const std::function<void(const PrepareProgress&)>& on_progress_;
  PrepareProgress progress_;
  std::vector<InputFile> files_;
  std::optional<DocumentSet> documents_;
  std::unique_ptr<Tokenizer> tokenizer_;
  PrepareJournal journal_;
  PrepareSummary summary_;

  // The state of take(), in order of the inputs.
  size_t next_file_ = 0;
  std::optional<DocumentReader> reader_;
  uint64_t read_before_ = 0;
  std::vector<bool> emitted_;         // by index in documents_
  int64_t left_to_skip_[2] = {0, 0};  // documents of each side in the shards of an interrupted run
};

void Preparation::check_options() {
  if (options_.inputs.empty()) throw UsageError("--input", "is missing; name files, folders or globs");
  if (options_.out.empty()) throw UsageError("--out", "is missing; name the folder to write");
  if (!(options_.val_fraction >= 0 && options_.val_fraction < 1)) {
    throw UsageError("--val-fraction", cat(options_.val_fraction, " is not in [0, 1)"));
  }
  if (options_.shard_tokens < 1 || options_.shard_tokens > kMaxShardTokensAsked) {
    throw UsageError("--shard-tokens", cat(options_.shard_tokens, " is not in 1 to ", kMaxShardTokensAsked));
  }
  if (options_.jobs < 0 || options_.jobs > 1024) throw UsageError("--jobs", cat(options_.jobs, " is not in 1 to 1024"));
  if (options_.jobs == 0) options_.jobs = available_processors();
  if (options_.name.empty()) {
    const auto folder = std::filesystem::absolute(options_.out).lexically_normal();
    options_.name = folder.has_filename() ? folder.filename().string() : folder.parent_path().filename().string();
  }
}

void Preparation::load_given_tokenizer() {
  if (options_.tokenizer.kind == TokenizerChoice::Kind::kBytes) tokenizer_ = make_byte_tokenizer();
  if (options_.tokenizer.kind != TokenizerChoice::Kind::kModelFile) return;
  const std::string& file = options_.tokenizer.file;
  tokenizer_ = make_sentencepiece_tokenizer(read_file(file, kMaxModelBytes, ExitCode::kUsage), file);
  if (!tokenizer_->lossless()) {
    summary_.notes.push_back(file + " does not keep every text: it normalises, adds a space or lacks byte pieces");
  }
}

std::string Preparation::difference(const Manifest& found) const {
  if (found.name != options_.name) return "--name";
  if (found.shard_tokens != options_.shard_tokens) return "--shard-tokens";
  if (found.val_fraction != options_.val_fraction) return "--val-fraction";
  const bool same = tokenizer_ ? !found.tokenizer_trained && found.tokenizer_hash == tokenizer_->hash()
                               : found.tokenizer_trained && found.vocab_size == options_.tokenizer.vocab_size;
  if (!same) return "--tokenizer";
  if (documents_ && found.documents_hash != documents_->hash()) return "text";
  return "";
}

void Preparation::refuse(const std::string& key) const {
  throw UsageError(options_.out, cat("was prepared with another ", key, "; choose another --out or remove the folder"));
}

// Whether the folder holds the finished result of these options and of this text.
bool Preparation::is_complete(const std::optional<Manifest>& found) const {
  if (!found) return false;
  const std::string key = difference(*found);
  if (!key.empty()) refuse(key);
  if (!documents_ && found->inputs_hash != hash_of(files_)) return false;  // the documents will tell
  for (const SideRecord* side : {&found->train, &found->validation}) {
    for (const ShardRecord& shard : side->shards) {
      TokenFile(path(shard.file), &shard, found->vocab_size);
    }
  }
  return true;
}

void Preparation::hash_documents() {
  begin_phase("hashing");
  documents_.emplace(files_, options_.jobs, [&](uint64_t bytes) { advance(bytes); });
  const std::string note = documents_->split(options_.val_fraction);
  if (!note.empty()) summary_.notes.push_back(note);
  summary_.text_bytes = documents_->counts().bytes;
}

void Preparation::plan() {
  Manifest& plan = journal_.plan;
  plan.name = options_.name;
  plan.tokenizer_name = tokenizer_->name();
  plan.tokenizer_hash = tokenizer_->hash();
  if (!tokenizer_->model_file().empty()) plan.tokenizer_file = kModelName;
  plan.tokenizer_trained = options_.tokenizer.kind == TokenizerChoice::Kind::kTrain;
  plan.vocab_size = tokenizer_->vocab_size();
  plan.end_of_document = tokenizer_->end_of_document();
  plan.duplicates = documents_->counts().duplicates;
  plan.empty = documents_->counts().empty;
  plan.val_fraction = options_.val_fraction;
  plan.shard_tokens = options_.shard_tokens;
  plan.inputs_hash = hash_of(files_);
  plan.documents_hash = documents_->hash();
}

// Takes over the complete shards of an interrupted run, if all of them and the tokenizer are in order.
void Preparation::resume(const PrepareJournal& journal) {
  const std::string key = difference(journal.plan);
  if (!key.empty()) refuse(key);
  try {
    if (!tokenizer_) {
      tokenizer_ = make_sentencepiece_tokenizer(read_file(path(kModelName), kMaxModelBytes, ExitCode::kDamaged),
                                                path(kModelName));
      if (tokenizer_->hash() != journal.plan.tokenizer_hash) throw DamagedError(path(kModelName), "has another hash");
    }
    for (const SideProgress* side : {&journal.train, &journal.validation}) {
      for (const ShardRecord& shard : side->record.shards) {
        const auto faults = TokenFile(path(shard.file), &shard, journal.plan.vocab_size).find_faults();
        if (!faults.empty()) throw DamagedError(path(shard.file), faults.front());
        ++summary_.resumed_shards;
      }
    }
    journal_.train = journal.train;
    journal_.validation = journal.validation;
  } catch (const DamagedError& error) {
    summary_.notes.push_back(cat("starting over: ", error.what()));
    summary_.resumed_shards = 0;
    if (options_.tokenizer.kind == TokenizerChoice::Kind::kTrain) tokenizer_.reset();
  }
}

// Documents of the train side, chosen by their hashes, so that the sample does not depend on order.
std::string Preparation::sample_text() {
  const int64_t wanted = std::max(kSampleBytes, kSampleBytesPerPiece * options_.tokenizer.vocab_size);
  const double share = static_cast<double>(wanted) / static_cast<double>(documents_->counts().bytes);
  std::vector<bool> seen(static_cast<size_t>(documents_->size()));
  std::string sample;
  begin_phase("sampling");
  for (const InputFile& file : files_) {
    DocumentReader reader(file.path);
    for (std::string_view text; reader.next(text);) {
      const Hash128 hash = hash128(text);
      const int64_t index = text.empty() ? -1 : documents_->index_of(hash);
      if (index < 0 || documents_->is_validation(index) || seen[static_cast<size_t>(index)]) continue;
      seen[static_cast<size_t>(index)] = true;
      if (std::ldexp(static_cast<double>(hash.low), -64) >= share) continue;
      if (static_cast<int64_t>(sample.size()) < 2 * wanted) (sample += text) += '\n';
    }
    advance(file.size);
  }
  return sample;
}

void Preparation::train_tokenizer() {
  const std::string sample = sample_text();
  begin_phase("training the tokenizer");
  bool given = false;
  std::string model = train_sentencepiece(options_.tokenizer.vocab_size, [&]() -> std::string_view {
    return std::exchange(given, true) ? std::string_view() : std::string_view(sample);
  });
  tokenizer_ = make_sentencepiece_tokenizer(std::move(model), kModelName);
}

bool Preparation::take(TextBatch& batch) {
  batch.text.clear();
  batch.documents.clear();
  batch.file_bytes = 0;
  while (batch.text.size() < kBatchBytes) {
    if (!reader_) {
      if (next_file_ == files_.size()) break;
      reader_.emplace(files_[next_file_].path);
      read_before_ = 0;
    }
    std::string_view text;
    const bool more = reader_->next(text);
    batch.file_bytes += reader_->position() - std::exchange(read_before_, reader_->position());
    if (!more) {
      reader_.reset();
      ++next_file_;
    }
    if (text.empty()) continue;
    const int64_t index = documents_->index_of(hash128(text));
    if (index < 0)
      throw RunError(files_[next_file_].path, "changed while it was being prepared; run the command again");
    if (emitted_[static_cast<size_t>(index)]) continue;
    emitted_[static_cast<size_t>(index)] = true;
    const bool validation = documents_->is_validation(index);
    const bool written = left_to_skip_[validation] > 0;
    left_to_skip_[validation] -= written;
    batch.documents.push_back({text.size(), validation, written, 0});
    batch.text += text;
  }
  return !batch.documents.empty() || next_file_ < files_.size() || batch.file_bytes > 0;
}

void Preparation::work(TextBatch& batch) const {
  batch.ids.clear();
  batch.invalid_bytes = 0;
  std::string_view rest = batch.text;
  for (TextBatch::Document& document : batch.documents) {
    const std::string_view text = rest.substr(0, document.bytes);
    rest.remove_prefix(document.bytes);
    batch.invalid_bytes += static_cast<int64_t>(count_invalid_utf8(text));
    if (!document.written) {
      tokenizer_->encode(batch.ids, text);
      batch.ids.push_back(tokenizer_->end_of_document());
    }
    document.ids_end = batch.ids.size();
  }
}

void Preparation::tokenize() {
  emitted_.assign(static_cast<size_t>(documents_->size()), false);
  left_to_skip_[0] = journal_.train.record.documents;
  left_to_skip_[1] = journal_.validation.record.documents;
  const Manifest& plan = journal_.plan;
  ShardWriter* writers[2] = {nullptr, nullptr};
  const auto record = [&] {
    journal_.train = writers[0]->progress();
    journal_.validation = writers[1]->progress();
    write_journal(options_.out, journal_);
  };
  ShardWriter train(options_.out, "train", plan.vocab_size, plan.shard_tokens, journal_.train, record);
  ShardWriter validation(options_.out, "val", plan.vocab_size, plan.shard_tokens, journal_.validation, record);
  writers[0] = &train;
  writers[1] = &validation;
  int64_t invalid_bytes = 0;
  begin_phase("tokenizing");
  run_in_order<TextBatch>(
      options_.jobs, [&](TextBatch& batch) { return take(batch); }, [&](TextBatch& batch) { work(batch); },
      [&](TextBatch& batch) {
        size_t begin = 0;
        for (const TextBatch::Document& document : batch.documents) {
          const std::span<const int32_t> ids(batch.ids.data() + begin, document.ids_end - begin);
          begin = document.ids_end;
          if (!document.written) writers[document.validation]->add(ids, static_cast<int64_t>(document.bytes));
        }
        invalid_bytes += batch.invalid_bytes;
        advance(batch.file_bytes);
      });
  train.finish();
  validation.finish();
  summary_.manifest = plan;
  summary_.manifest.invalid_utf8_bytes = invalid_bytes;
  summary_.manifest.train = train.progress().record;
  summary_.manifest.validation = validation.progress().record;
}

void Preparation::begin_phase(const char* name) {
  progress_ = {name, 0, 0};
  for (const InputFile& file : files_) progress_.total_bytes += file.size;
  advance(0);
}

void Preparation::advance(uint64_t bytes) {
  progress_.bytes += bytes;
  if (on_progress_) on_progress_(progress_);
}

PrepareSummary Preparation::run() {
  check_options();
  files_ = expand_inputs(options_.inputs);
  summary_.files = static_cast<int64_t>(files_.size());
  load_given_tokenizer();
  make_directories(options_.out);
  const FolderLock lock(options_.out);
  const std::optional<Manifest> found = find_manifest(options_.out);
  if (!is_complete(found)) {
    hash_documents();
    if (!is_complete(found)) {
      if (const auto journal = find_journal(options_.out)) {
        resume(*journal);
      } else if (!glob_paths(path("train-*.bin")).empty() || !glob_paths(path("val-*.bin")).empty()) {
        throw UsageError(options_.out, cat("holds token shards without a ", kManifestName, "; choose another --out"));
      }
      if (!tokenizer_) train_tokenizer();
      plan();
      if (!tokenizer_->model_file().empty()) write_file_atomically(path(kModelName), tokenizer_->model_file());
      write_journal(options_.out, journal_);
      tokenize();
      write_file_atomically(path(kManifestName), to_json(summary_.manifest).dump(1) + "\n");
      remove_tree(path(kJournalName));
      return std::move(summary_);
    }
  }
  summary_.already_complete = true;
  summary_.manifest = *found;
  remove_tree(path(kJournalName));
  return std::move(summary_);
}

}  // namespace

PrepareSummary prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& on_progress) {
  return Preparation(options, on_progress).run();
}

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace sffn
