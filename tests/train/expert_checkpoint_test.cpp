// Checkpoints do not know how blocks were spread over ranks.
#include "comm/threads.h"
#include "support/error_of.h"
#include "support/temp_folder.h"
#include "train/checkpoint/checkpoint.h"
#include "train/expert_case.h"
#include "train/state.h"

#include <cstring>
#include <map>
#include <mutex>

using namespace sffn;
using namespace sffn::test;

namespace {

// The bits of every element, by tensor and place in it, wherever they are held.
using Bits = std::map<std::pair<std::string, int64_t>, uint32_t>;

class Fleet {
 public:
  Fleet(Config config, const Layout& layout) : config_(std::move(config)), layout_(layout) { layout.apply(config_); }

  // Loads `from` where it is given, trains `steps` steps from `first` on, and saves to `to` where that is given.
  std::vector<double> run(const std::string& from, int64_t first, int64_t steps, const std::string& to) {
    std::vector<double> losses;
    std::mutex guard;
    run_threads(layout_.ranks, [&](Communicator& world) {
      RankGroups groups(world, layout_.expert);
      Engine engine(config_, parallel_of(world, groups), cpu_runtime(), arenas_of(config_, world));
      engine.initialise();
      if (!from.empty()) load(world, engine, from);
      note(engine, loaded_, guard);
      const std::string loaded_hash = engine.state_hash();
      for (int64_t step = first; step < first + steps; ++step) {
        const StepNumbers numbers = run_step(engine, step);
        if (world.rank() == 0) losses.push_back(numbers.loss);
      }
      note(engine, trained_, guard);
      const std::string trained_hash = engine.state_hash();
      if (world.rank() == 0) loaded_hash_ = loaded_hash, trained_hash_ = trained_hash;
      if (!to.empty()) save(world, engine, to);
    });
    return losses;
  }
  const Bits& loaded() const { return loaded_; }
  const Bits& trained() const { return trained_; }
  // The engine's own, at the same two moments.
  const std::string& loaded_hash() const { return loaded_hash_; }
  const std::string& trained_hash() const { return trained_hash_; }

 private:
  static void load(Communicator& world, Engine& engine, const std::string& from) {
    StatePieces state = state_pieces(engine, StateShare::kHeld);
    resume_from(world, find_checkpoint(world, from), state.parameters, state.moments);
    state.host.store();
    engine.publish_values();
  }
  void save(Communicator& world, Engine& engine, const std::string& to) const {
    StatePieces state = state_pieces(engine, StateShare::kOwned);
    state.host.fetch();
    CheckpointContents contents;
    contents.parameters = std::move(state.parameters);
    contents.moments = std::move(state.moments);
    contents.config = resolved_json(config_);
    contents.trainer["tokens"] = int64_t{0};
    write_checkpoint(world, to, 2, contents);
  }
  // Weights and both moments of what this rank holds.
  static void note(Engine& engine, Bits& all, std::mutex& guard) {
    StatePieces state = state_pieces(engine, StateShare::kHeld);
    state.host.fetch();
    const std::lock_guard<std::mutex> lock(guard);
    for (const std::vector<Piece>* pieces : {&state.parameters, &state.moments}) {
      for (const Piece& piece : *pieces) {
        for (int64_t at = piece.begin; at < piece.end; ++at) {
          std::memcpy(&all[{piece.name, at}], piece.at(at), Piece::kElementBytes);
        }
      }
    }
  }

  Config config_;
  Layout layout_;
  Bits loaded_, trained_;
  std::string loaded_hash_, trained_hash_;
};

}  // namespace

// Kills: a rank's slab read from the place of another's, moments of another block, a block saved twice or by nobody; a
// state hash that counts what several ranks hold more than once, or depends on who holds it.
TEST_CASE("what 4 expert ranks save, any other layout loads, block by block, and trains on with the same losses",
          "[expert][checkpoint]") {
  for (const char* name :
       {"avg_k", "switch", "pkm", "vanilla_m", "finedeep, output", "finedeep, input", "pkm, dense relu"}) {
    INFO(name);
    TempFolder folder(TempFolder::kMemory);
    Config config = config_of(spread_method(name), Precision::kFp32);
    if (std::string(name) == "avg_k") {  // with state that is saved
      config.model.sparse_ffn.as_array()[0]["balance"] = parse_json(R"({"type": "bias"})", "test", ExitCode::kUsage);
    }
    REQUIRE(blocks_of(config) % 4 == 0);
    const std::string path = folder / "step-00000002";
    Fleet writers(config, {4, 4});
    writers.run("", 1, 2, path);
    CHECK(verify_checkpoint(path).empty());
    Fleet same(config, {4, 4});
    const std::vector<double> losses = same.run(path, 3, 2, "");
    for (const Layout layout : {Layout{1, 1}, Layout{2, 2}, Layout{8, 4}, Layout{4, 2, 0}, Layout{8, 8}}) {
      if (blocks_of(config) % layout.expert != 0) continue;
      INFO(layout.ranks << " ranks, " << layout.expert << " share the blocks");
      Fleet readers(config, layout);
      const std::vector<double> found = readers.run(path, 3, 2, "");
      CHECK(readers.loaded() == writers.trained());
      CHECK(readers.loaded_hash() == writers.trained_hash());
      CHECK(relative_distance(found, losses) < 1e-5);
    }
  }
}

// Kills: a layout that leaves the choice to chance, or ranks of which some go on.
TEST_CASE("layouts that do not fit are refused on every rank with the rule and the numbers", "[expert]") {
  const Config good = config_of(*find_ffn_method("avg_k"), Precision::kFp32);
  const auto refused = [](Config config, int ranks, int64_t expert) {
    config.parallel.expert = expert;
    return error_of([&] { Engine::measure(config, 0, ranks); }).what;
  };
  const int64_t blocks = blocks_of(good);
  CHECK(refused(good, 3, 2) ==
        "parallel.expert: is 2, which does not divide the 3 ranks of the run; use a divisor of it, or another number "
        "of ranks");
  CHECK(refused(good, static_cast<int>(2 * blocks), 2 * blocks) ==
        cat("parallel.expert: is ", 2 * blocks, ", which does not divide the ", blocks,
            " blocks of layer 1: there are more expert ranks than blocks"));
  const Config experts = config_of(*find_ffn_method("finedeep"), Precision::kFp32);
  CHECK(refused(experts, 3, 3) ==
        "parallel.expert: is 3, which does not divide the 4 blocks of every sub-layer of layer 1");
  CHECK(refused(experts, 8, 8) ==
        "parallel.expert: is 8, which does not divide the 4 blocks of every sub-layer of layer 1: there are more "
        "expert ranks than blocks");
  CHECK(
      refused(config_of(spread_method("pkm, dense softmax"), Precision::kFp32), 8, 8) ==
      "parallel.expert: is 8, which does not divide the 4 blocks of layer 1: there are more expert ranks than blocks");
  CHECK(refused(config_of(*find_ffn_method("dense"), Precision::kFp32), 2, 2) ==
        "parallel.expert: is 2, but no layer has blocks; 1 is expected");
  Config odd = good;
  odd.train.tokens_per_step = 6 * kContext;
  CHECK(refused(odd, 4, 2) ==
        "train.tokens_per_step: makes 6 micro-batches a step for 4 ranks; with parallel.expert 2 every rank needs as "
        "many: a multiple of 4 is expected");
}
