#include "comm/threads.h"
#include "core/file.h"
#include "core/safetensors.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/fingerprints.h"
#include "support/temp_folder.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/record.h"
#include "train/checkpoint/run_lock.h"

#include <atomic>
#include <functional>

using namespace sffn;
using namespace sffn::test;

namespace {

void save_alone(const std::string& run, int64_t step, int64_t fill) {
  const auto comm = make_self_communicator();
  State state(*comm, small_model(), true);
  state.fill(fill);
  write_checkpoint(*comm, run + "/checkpoints/" + step_name(step), step, state.contents());
}

}  // namespace

// Kills: a range read at the wrong offset, moments not restored, m and v swapped, rank-local names, an uncollected
// piece.
TEST_CASE("a state survives a chain of 1, 2, 4, 3 and 1 ranks, every element in its place", "[checkpoint]") {
  TempFolder run(TempFolder::kMemory);
  for (const bool whole : {true, false}) {
    const std::string path = run / (whole ? "whole" : "shared");
    make_directories(path + "/checkpoints");
    int64_t step = 0;
    for (const int ranks : {1, 2, 4, 3, 1}) {
      std::atomic<int64_t> wrong = 0;
      run_threads(ranks, [&](Communicator& comm) {
        State state(comm, small_model(), whole);
        state.poison();
        const Resume resume = choose_resume(comm, path, "auto");
        if (resume.checkpoint) {
          if (resume.checkpoint->step != step) ++wrong;
          resume_from(comm, *resume.checkpoint, state.parameters(), state.moments());
          wrong += state.wrong(step);
        }
        CheckpointWriter writer(comm, path, {}, resume);
        state.fill(step + 10);
        if (!writer.save(step + 10, state.contents())) ++wrong;
      });
      step += 10;
      REQUIRE(wrong == 0);
      const std::string folder = path + "/checkpoints/" + step_name(step);
      CHECK(verify_checkpoint(folder).empty());
      CHECK(read_text(path + "/checkpoints/latest") == step_name(step) + "\n");
      CHECK(list_directory(folder).size() == 4 + static_cast<size_t>(ranks));
    }
  }
}

// Kills: a layout of the weights that depends on who held them.
TEST_CASE("model.safetensors is the same file from any number of ranks", "[checkpoint]") {
  TempFolder run(TempFolder::kMemory);
  std::vector<std::string> files;
  for (const int ranks : {1, 2, 3}) {
    const std::string folder = run / ("r" + std::to_string(ranks));
    run_threads(ranks, [&](Communicator& comm) {
      State state(comm, small_model(), false);
      state.fill(5);
      write_checkpoint(comm, folder, 5, state.contents());
    });
    files.push_back(read_text(folder + "/model.safetensors"));
  }
  CHECK(files[0] == files[1]);
  CHECK(files[0] == files[2]);
}

// Kills: blocks cut at tensors instead of file offsets, the last block left out.
TEST_CASE("tensors larger than a checksum block are gathered, recorded and read in blocks", "[checkpoint]") {
  TempFolder run;
  const Tensors tensors{{"a", {3}}, {"big", {5, 1 << 20}}, {"c", {7}}};
  run_threads(2, [&](Communicator& comm) {
    State state(comm, tensors, false);
    state.fill(1);
    write_checkpoint(comm, run / "step-00000001", 1, state.contents());
    state.poison();
    const FoundCheckpoint found = find_checkpoint(comm, run / "step-00000001");
    resume_from(comm, found, state.parameters(), state.moments());
    SFFN_CHECK(state.wrong(1) == 0, "wrong elements");
  });
  const CommitRecord record = parse_record(read_text(run / "step-00000001/checksums.json"), "record");
  for (const FileRecord& file : record.files) {
    if (file.name == kModelName) CHECK(file.blocks.size() == 3);
    CHECK(record_of(file.name, read_text(run / ("step-00000001/" + file.name))).blocks == file.blocks);
  }
}

// Kills: a fresh start where a tensor is missing, a silent skip of extra tensors, shapes compared by count.
TEST_CASE("a checkpoint that does not fit is an error of exit code 2 that names the tensor", "[checkpoint]") {
  TempFolder run(TempFolder::kMemory);
  make_directories(run / "checkpoints");
  save_alone(run.path(), 3, 3);
  const auto comm = make_self_communicator();
  const auto resume_with = [&](Tensors tensors) {
    State state(*comm, tensors, true);
    const Resume resume = choose_resume(*comm, run.path(), "auto");
    return error_of([&] { resume_from(*comm, *resume.checkpoint, state.parameters(), state.moments()); });
  };
  Tensors tensors = small_model();
  CHECK(resume_with(tensors).code == ExitCode::kDone);
  tensors[0].second = {8, 33};
  CHECK(resume_with(tensors).says("tensor wte is [33,8]; this configuration has [8,33]"));
  CHECK(resume_with(tensors).code == ExitCode::kUsage);
  tensors = small_model();
  tensors.push_back({"new", {1}});
  CHECK(resume_with(tensors).says("lacks the tensor new"));
  tensors = small_model();
  tensors.erase(tensors.begin());
  CHECK(resume_with(tensors).says("holds the tensor \"wte\""));

  State state(*comm, small_model(), true);
  const FoundCheckpoint found = find_checkpoint(*comm, run.path());
  std::vector<Piece> moments = state.moments();
  moments.pop_back();
  CHECK(error_of([&] { resume_from(*comm, found, state.parameters(), moments); }).says("adam.v:h.1.ffn.keys"));
}

// Kills: integers written or read as floats, from one rank or another, and a table of floats taken for one of integers.
TEST_CASE("state of integers goes through a checkpoint as I32 beside the parameters", "[checkpoint]") {
  const TempFolder run(TempFolder::kMemory);
  const auto with_table = [](CheckpointContents contents, std::vector<int32_t>& table) {
    contents.parameters.push_back({"table", {3}, 0, 3, table.data(), DType::kI32});
    return contents;
  };
  run_threads(2, [&](Communicator& comm) {
    State state(comm, small_model(), true);
    state.fill(1);
    std::vector<int32_t> table = {7, -1, 2'000'000'011};
    write_checkpoint(comm, run / "step-00000001", 1, with_table(state.contents(), table));
    state.poison();
    std::vector<int32_t> read(3);
    const FoundCheckpoint found = find_checkpoint(comm, run / "step-00000001");
    resume_from(comm, found, with_table(state.contents(), read).parameters, state.moments());
    SFFN_CHECK(read == table && state.wrong(1) == 0, "wrong elements");
  });
  const SafetensorsFile file(run / "step-00000001/model.safetensors");
  CHECK(file.find("table")->dtype == "I32");
  CHECK(file.find("wte")->dtype == "F32");
  const auto comm = make_self_communicator();
  State state(*comm, small_model(), true);
  std::vector<float> floats(3);
  std::vector<Piece> parameters = state.parameters();
  parameters.push_back({"table", {3}, 0, 3, floats.data(), DType::kF32});
  const FoundCheckpoint found = find_checkpoint(*comm, run / "step-00000001");
  const Caught error = error_of([&] { read_parameters(*comm, found, parameters); });
  CHECK(error.code == ExitCode::kUsage);
  CHECK(error.says("tensor table is I32; this configuration has F32"));
}

// Kills: saving a state with a hole in it, or with two owners of one element.
TEST_CASE("pieces that miss an element or hold a moment twice are refused before anything is written", "[checkpoint]") {
  TempFolder run(TempFolder::kMemory);
  const auto comm = make_self_communicator();
  State state(*comm, small_model(), true);
  const auto save = [&](CheckpointContents contents) {
    const Caught error = error_of([&] { write_checkpoint(*comm, run / "step-00000001", 1, contents); });
    CHECK(error.code == ExitCode::kRunFailed);
    return error;
  };
  CheckpointContents contents = state.contents();
  contents.parameters[0].end -= 1;
  CHECK(save(contents).says("no rank holds element 263"));
  contents = state.contents();
  contents.moments[0].begin += 1;
  CHECK(save(contents).says("adam.m:wte"));
  contents = state.contents();
  contents.moments.push_back(contents.moments[1]);
  CHECK(save(contents).says("twice"));
  contents = state.contents();
  contents.parameters[1].end += 1;
  CHECK(save(contents).says("h.0.ln.weight"));
  CHECK(list_directory(run.path()).empty());
}
