// Checkpoints of a run: RUN/checkpoints/step-NNNNNNNN/ with config.json, trainer.json, model.safetensors (one file,
// fp32), optimizer-RRRRR-of-RRRRR.safetensors (what each rank held, by name and range) and checksums.json.
//
// A step is complete or absent: everything is written to step-N.tmp, fsynced, voted on by all ranks, recorded with
// checksums, and only then renamed. Any number of ranks reads what any other wrote: pieces go by global names and
// element ranges. Only damage falls back to an older step, never a checkpoint that does not fit.
//
// A run:   RunLock lock(comm, run);                            one writer at a time
//          Resume resume = choose_resume(comm, run, "auto");   verified, agreed over ranks
//          if (resume.checkpoint) { ... compare config and trainer ...; resume_from(comm, *resume.checkpoint, p, m); }
//          CheckpointWriter writer(comm, run, options, resume);
//          writer.save(step, contents);
// Every function that takes a Communicator is collective: all ranks call it, and an Error on one is thrown on all.
#pragma once
#include "comm/communicator.h"
#include "core/dtype.h"
#include "core/json.h"
#include "core/shape.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace sffn {

// Elements [begin, end) of one tensor, held by this rank.
struct Piece {
  std::string name;  // as in methods.md; moments: "adam.m:NAME", "adam.v:NAME"
  Shape shape;       // of the whole tensor, as in files
  int64_t begin = 0, end = 0;
  void* data = nullptr;       // end - begin values
  DType dtype = DType::kF32;  // state may be kI32; every element has kElementBytes

  static constexpr int64_t kElementBytes = 4;
  std::byte* at(int64_t element) const { return static_cast<std::byte*>(data) + (element - begin) * kElementBytes; }
};

struct CheckpointContents {
  std::vector<Piece> parameters;  // over all ranks every element at least once
  std::vector<Piece> moments;     // over all ranks every element exactly once
  Json config;                    // resolved
  Json trainer;                   // position of the run; "step" and "ranks" are added
};

// A step folder that was looked at and found sound.
struct FoundCheckpoint {
  std::string folder;
  int64_t step = 0;
  Json config, trainer;
};

struct ReadOptions {
  bool verify = true;              // false: checksums are not compared; everything else is
  std::function<void()> progress;  // called at every block of 8 MiB
};

struct Resume {
  std::optional<FoundCheckpoint> checkpoint;  // none: a fresh start
  std::vector<int64_t> rejected;              // damaged steps: they do not count as kept
  std::vector<std::string> replaced;          // entries of RUN/checkpoints this run does not continue: to be moved away
};

// --resume auto | never | CHECKPOINT, as of find_checkpoint. "auto" takes the newest sound step and prints one line
// "rejected step N: ..." for each newer one; "fresh start" only where nothing was ever saved. Changes nothing on disk.
// Throws DamagedError when something was saved and nothing is sound, or when CHECKPOINT is not.
Resume choose_resume(Communicator& comm, const std::string& run, const std::string& mode, const ReadOptions& = {});

// A step folder, or a run folder and then its newest sound step. Throws DamagedError.
FoundCheckpoint find_checkpoint(Communicator& comm, const std::string& path, const ReadOptions& = {});

// Fills the pieces, whatever the number of ranks that wrote them. Throws UsageError naming the tensor when the
// checkpoint and the pieces of all ranks differ in names, shapes or coverage.
void read_parameters(Communicator& comm, const FoundCheckpoint&, const std::vector<Piece>& parameters,
                     const ReadOptions& = {});
// Parameters and moments; prints "resumed from step N".
void resume_from(Communicator& comm, const FoundCheckpoint&, const std::vector<Piece>& parameters,
                 const std::vector<Piece>& moments, const ReadOptions& = {});

// Every fault of a step folder, in words with file and offset; none: it is sound.
std::vector<std::string> verify_checkpoint(const std::string& folder);
// The step of a sound step folder; nothing for any other.
std::optional<int64_t> sound_step(const std::string& folder);

// Writes one step folder: `folder` + ".tmp", then renamed. An equal one is kept, a damaged one set aside as ".damaged",
// another content of the same config replaced. Throws on all ranks: RunError (nothing is left behind), or UsageError
// when `folder` holds a checkpoint of another config.
void write_checkpoint(Communicator& comm, const std::string& folder, int64_t step, const CheckpointContents&,
                      const std::function<void()>& progress = {});

struct CheckpointWriterOptions {
  int64_t keep = 3;        // newest sound steps that stay, at least 1
  int64_t keep_every = 0;  // multiples of this stay as well; 0: none
  int failure_limit = 3;   // failed saves in a row that end the run
  std::function<void()> progress;
};

// Saves the steps of one run, counts failures, keeps `latest` and removes old steps.
class CheckpointWriter {
 public:
  // Removes what killed runs left half done, and moves `resume.replaced` to RUN/checkpoints.replaced-K/.
  // The run's lock must be held. Throws UsageError when RUN/checkpoints cannot be made.
  CheckpointWriter(Communicator& comm, std::string run, CheckpointWriterOptions options, const Resume& resume);

  // True: the step is on disk for good ("saved step N"). False: it is not, one line says why, and training goes on.
  // Throws RunError when the last failure_limit saves failed, or when `last` is set and this one did.
  bool save(int64_t step, const CheckpointContents& contents, bool last = false);
  std::optional<int64_t> newest() const { return newest_; }  // the step a resume would take

 private:
  void update_latest(int64_t step);
  void remove_old(int64_t step);
  Communicator& comm_;
  std::string run_, folder_;
  CheckpointWriterOptions options_;
  std::set<int64_t> rejected_, sound_;
  std::optional<int64_t> newest_;
  int failures_ = 0;
  bool warned_of_latest_ = false;
};

// metrics.jsonl of a resumed run: records beyond `step` and lines that are no record (a torn last one) are cut by copy
// and rename. A file that needs no cut, or is not there, is left alone.
void trim_metrics(const std::string& path, int64_t step);

}  // namespace sffn
