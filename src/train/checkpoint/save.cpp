// The save protocol. Every rank passes every step in the same order; what only rank 0 does stands under `is_root`.
#include "comm/agree.h"
#include "core/buffer.h"
#include "core/fault.h"
#include "core/log.h"
#include "train/checkpoint/checked_file.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/optimizer_file.h"
#include "train/checkpoint/piece_table.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <unordered_map>

namespace sffn {
namespace {

constexpr int64_t kBlockElements = static_cast<int64_t>(kChecksumBlock / Piece::kElementBytes);

// Moves blocks of a tensor from the rank that holds them to rank 0, through a buffer of one block.
class Collector {
 public:
  Collector(Communicator& comm, const std::vector<Piece>& pieces)
      : comm_(comm), stream_(cpu_runtime()), buffer_(cpu_runtime(), comm.size() > 1 ? kChecksumBlock : 0) {
    for (const Piece& piece : pieces) mine_[piece.name].push_back(&piece);
  }

  // Elements [begin, end) of the span's rank, at most one block of them. Valid on rank 0, until the next call there.
  const void* take(const std::string& name, int64_t begin, int64_t end, int from) {
    const void* held = comm_.rank() == from ? find(name, begin, end) : nullptr;
    if (from == 0) return held;
    std::vector<int64_t> send_counts(comm_.size(), 0), recv_counts(comm_.size(), 0);
    if (comm_.rank() == from) send_counts[0] = end - begin;
    if (comm_.rank() == 0) recv_counts[from] = end - begin;
    const auto rows = [](const void* data, int64_t count) {  // of 4 bytes, whatever they mean
      return Tensor(const_cast<void*>(data), {count, 1}, DType::kF32, Device::cpu());
    };
    void* received = buffer_.data();
    comm_.all_to_all(stream_, rows(received, recv_counts[from]), recv_counts, rows(held, send_counts[0]), send_counts);
    return received;
  }

 private:
  const void* find(const std::string& name, int64_t begin, int64_t end) const {
    for (const Piece* piece : mine_.at(name)) {
      if (piece->begin <= begin && end <= piece->end) return piece->at(begin);
    }
    throw RunError(name, "a range of it is held in two pieces that the table has as one");
  }

  Communicator& comm_;
  Stream stream_;
  Buffer buffer_;
  std::unordered_map<std::string, std::vector<const Piece*>> mine_;
};

class Save {
 public:
  Save(Communicator& comm, const std::string& folder, int64_t step, const CheckpointContents& contents,
       const std::function<void()>& progress)
      : comm_(comm),
        folder_(folder),
        temporary_(folder + ".tmp"),
        step_(step),
        contents_(contents),
        progress_(progress),
        is_root_(comm.rank() == 0) {}

  void run() {
    const PieceTable parameters = gather_pieces(comm_, contents_.parameters);
    for (const auto& [name, entry] : parameters.tensors) cover(name, entry);  // throws before anything is written
    check_partition(gather_pieces(comm_, contents_.moments));
    try {
      together(comm_, [&] { make_temporary(); });
      const Failure written = attempt_files(parameters);
      vote(written);
      commit();
    } catch (const Error&) {  // the same on every rank, and every rank has closed its files
      if (is_root_ && !renamed_) drop_temporary();
      throw;
    }
  }

 private:
  void make_temporary() {
    fault_point("begin", step_, temporary_);
    if (is_root_) remove_tree(temporary_);  // of a killed run: this one holds the lock
    if (is_root_ && mkdir(temporary_.c_str(), 0755) != 0) {
      throw RunError(temporary_, cat("cannot make the folder: ", std::strerror(errno)));
    }
    fault_point("tmp_made", step_, temporary_);
  }

  // Every rank goes through all collectives of the gathering, whatever fails.
  Failure attempt_files(const PieceTable& parameters) {
    Failure failure = write_model(parameters);
    const auto then = [&](auto&& work) {
      if (!failure) failure = attempt(work);
    };
    then([&] { write_optimizer(); });
    if (is_root_) then([&] { write_json(kConfigName, contents_.config); });
    if (is_root_) then([&] { write_trainer(); });
    then([&] { fault_point("synced", step_, temporary_); });
    then([&] { fault_point("before_vote", step_, temporary_); });
    return failure;
  }

  Failure write_model(const PieceTable& table) {
    std::vector<SafetensorsSpec> specs;
    for (const auto& [name, entry] : table.tensors) specs.push_back({name, entry.dtype, entry.shape});
    const SafetensorsLayout layout = lay_out_safetensors(specs);
    Collector collector(comm_, contents_.parameters);
    std::optional<CheckedFile> file;
    Failure failure;
    const auto at_root = [&](auto&& work) {
      if (is_root_ && !failure) failure = attempt(work);
    };
    at_root([&] {
      file.emplace(temporary_, kModelName, layout.file_bytes, step_, progress_);
      file->write(layout.head.data(), layout.head.size());
    });
    for (const SafetensorsEntry& entry : layout.entries) {
      for (const PieceTable::Span& span : cover(entry.name, table.tensors.at(entry.name))) {
        for (int64_t begin = span.begin; begin < span.end; begin += kBlockElements) {
          const int64_t end = std::min(span.end, begin + kBlockElements);
          const void* data = collector.take(entry.name, begin, end, span.rank);
          at_root([&] { file->write(data, static_cast<uint64_t>((end - begin) * Piece::kElementBytes)); });
          if (!is_root_ && progress_) progress_();
        }
      }
    }
    at_root([&] { files_.push_back(file->finish()); });
    return failure;
  }

  void write_optimizer() {
    const OptimizerLayout optimizer = lay_out_optimizer(contents_.moments, comm_.rank(), comm_.size());
    const std::string name = optimizer_name(comm_.rank(), comm_.size());
    CheckedFile file(temporary_, name, optimizer.layout.file_bytes, step_, progress_);
    file.write(optimizer.layout.head.data(), optimizer.layout.head.size());
    for (const Piece* piece : optimizer.pieces) {
      file.write(piece->data, static_cast<uint64_t>((piece->end - piece->begin) * Piece::kElementBytes));
    }
    files_.push_back(file.finish());
  }

  void write_trainer() {
    Json trainer = contents_.trainer;
    trainer["step"] = step_;
    trainer["ranks"] = comm_.size();
    write_json(kTrainerName, trainer);
  }

  void write_json(const char* name, const Json& json) {
    const std::string text = json.dump(2) + "\n";
    CheckedFile file(temporary_, name, text.size(), step_, progress_);
    file.write(text.data(), text.size());
    files_.push_back(file.finish());
  }

  // After it every rank's files are on disk, or all ranks throw.
  void vote(const Failure& mine) {
    if (const Failure failure = first_failure(comm_, mine)) failure.raise();
    for (const std::string& text : gather_texts(comm_, to_text(files_))) {
      for (FileRecord& file : parse_files(text, temporary_)) record_.files.push_back(std::move(file));
    }
    record_.step = step_;
    record_.ranks = comm_.size();
    std::sort(record_.files.begin(), record_.files.end(),
              [](const FileRecord& a, const FileRecord& b) { return a.name < b.name; });
  }

  void commit() {
    together(comm_, [&] {
      fault_point("after_vote", step_, temporary_);
      if (is_root_) write_record();
      fault_point("record_written", step_, temporary_);
      fault_point("before_rename", step_, temporary_);
    });
    together(comm_, [&] {
      if (is_root_) rename_into_place();
      fault_point("after_rename", step_, folder_);
    });
  }

  void write_record() {
    for (const FileRecord& file : record_.files) {
      const uint64_t size = File::open_beneath(temporary_, file.name, ExitCode::kRunFailed).size();
      if (size != file.bytes)
        throw RunError(temporary_ + "/" + file.name, cat("shows ", size, " bytes of ", file.bytes));
    }
    const std::string text = to_text(record_);
    File file = File::open(temporary_ + "/" + kRecordName, File::Mode::kCreateNew);
    file.write(text.data(), text.size());
    file.sync();
    file.close();
    sync_directory(temporary_);
  }

  void rename_into_place() {
    if (!exists(folder_)) {
      rename_path(temporary_, folder_);
    } else if (!is_real_folder(folder_) || !verify_checkpoint(folder_).empty()) {
      remove_tree(folder_ + ".damaged");
      rename_path(folder_, folder_ + ".damaged");
      log::warn("set aside ", folder_, ".damaged");
      rename_path(temporary_, folder_);
    } else if (content_of(kRecordName) == to_text(record_)) {
      remove_tree(temporary_);
    } else if (parse_json(content_of(kConfigName), folder_, ExitCode::kDamaged) == contents_.config) {
      replace_old();
    } else {
      throw UsageError(folder_, "holds a checkpoint of another configuration; use another run folder");
    }
    renamed_ = true;
    sync_parent();
  }

  void sync_parent() {
    const std::string parent = std::filesystem::path(folder_).parent_path().string();
    sync_directory(parent.empty() ? "." : parent);
  }

  std::string content_of(const char* name) {
    return read_file(folder_ + "/" + name, kMaxRecordBytes, ExitCode::kDamaged);
  }

  // The old content gives way at one stroke where the system can exchange names, else it steps aside first.
  void replace_old() {
    const std::string old = folder_ + ".deleting";
    remove_tree(old);
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, folder_.c_str(), RENAME_EXCHANGE) == 0) {
      rename_path(temporary_, old);
    } else {
      rename_path(folder_, old);
      rename_path(temporary_, folder_);
    }
    sync_parent();
    if (const Failure failure = attempt([&] { remove_tree(old); })) log::warn(failure.what);
  }

  void drop_temporary() {
    const Failure failure = attempt([&] { remove_tree(temporary_); });
    if (failure) log::warn(failure.what);
  }

  Communicator& comm_;
  const std::string folder_, temporary_;
  const int64_t step_;
  const CheckpointContents& contents_;
  const std::function<void()>& progress_;
  const bool is_root_;
  bool renamed_ = false;
  std::vector<FileRecord> files_;  // what this rank wrote
  CommitRecord record_;
};

}  // namespace

void write_checkpoint(Communicator& comm, const std::string& folder, int64_t step, const CheckpointContents& contents,
                      const std::function<void()>& progress) {
  Save(comm, folder, step, contents, progress).run();
}

}  // namespace sffn
