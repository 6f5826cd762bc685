#include "tools/tool_run.h"

using namespace sffn;
using namespace sffn::test;

namespace {

struct Variant {
  int ranks;
  const char *precision, *zero, *recompute;
  Words settings() const {
    return {"--set", std::string("train.precision=") + precision, "--set", std::string("parallel.zero=") + zero,
            "--set", std::string("train.recompute=") + recompute};
  }
};

// Every value of every switch, on every number of ranks.
constexpr Variant kVariants[] = {{1, "fp32", "1", "none"}, {2, "bf16", "1", "ffn"}, {3, "fp32", "0", "block"},
                                 {3, "bf16", "1", "none"}, {2, "fp32", "0", "ffn"}, {1, "bf16", "0", "block"},
                                 {2, "fp32", "1", "block"}};

}  // namespace

// Kills: a buffer that the plan forgets, or counts for another share of the work than rank 0 has.
TEST_CASE("the memory that plan prints is what train allocates, to the byte", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string data = prepare_words(folder, "a", 12), config = write_model(folder);
  for (const Variant& variant : kVariants) {
    INFO(variant.ranks << " ranks, " << variant.precision << ", zero " << variant.zero << ", " << variant.recompute);
    const std::string run = folder / "run";
    const Words settings = variant.settings() + Words{"--set", "train.steps=1"};
    const Json plan =
        sffn_done(Words{"plan", config, "--json", "--ranks", std::to_string(variant.ranks)} + settings).json();
    sffn_done(train_command(config, data, run) + settings, variant.ranks);
    const std::string metrics = read_text(run + "/metrics.jsonl");
    const Json logged = parse_json(metrics.substr(0, metrics.find('\n')), "metrics", ExitCode::kRunFailed);
    const Json& per_rank = *plan.find("memory")->find("per_rank");
    CHECK(per_rank.find("total")->as_int() == logged.find("memory_bytes")->as_int());
    int64_t sum = -per_rank.find("total")->as_int();
    for (const Json::Member& part : per_rank.as_object()) sum += part.value.as_int();
    CHECK(sum == per_rank.find("total")->as_int());
    std::filesystem::remove_all(run);
  }
}

// Kills: a key that scripts rely on, renamed; a parameter counted twice; recomputation not counted as executed.
TEST_CASE("plan prints the parameters and FLOPs of a model", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Words command = {"plan", write_model(folder), "--json"};
  const Ran ran = sffn_done(command + Words{"--device", "h100"});
  CHECK(ran.err.empty());
  const Json plan = ran.json();
  CHECK(has_keys(plan, {"parameters", "flops", "memory", "communication", "step_ms"}));
  // Embeddings 257·16 and positions 16·16; per layer qkv 16·48 + 48, output 16·16 + 16, two norms of 32, FFN
  // 2·16·32 + 32 + 16; the last norm 32.
  const int64_t layer = 16 * 48 + 48 + 16 * 16 + 16 + 2 * 32 + 2 * 16 * 32 + 32 + 16;
  const Json& parameters = *plan.find("parameters");
  CHECK(parameters.find("total")->as_int() == 257 * 16 + 16 * 16 + layer + 32);
  CHECK(parameters.find("active")->as_int() == parameters.find("total")->as_int());
  CHECK(parameters.find("sparse")->as_int() == 0);
  REQUIRE(parameters.find("by_layer")->as_array().size() == 1);
  CHECK(parameters.find("by_layer")->as_array()[0].as_int() == layer);
  const Json& flops = *plan.find("flops");
  CHECK(has_keys(flops, {"forward_per_token", "train_per_token", "executed_train_per_token", "paper_zflops"}));
  CHECK(number(flops, "train_per_token") == Approx(3 * number(flops, "forward_per_token")));
  for (const Json::Member& part : plan.find("step_ms")->as_object()) CHECK(part.value.is_number());
  CHECK(number(*plan.find("memory"), "device") == 80e9);
  const Json slower = sffn_done(command + Words{"--device", "l40s"}).json();
  CHECK(number(*slower.find("step_ms"), "compute") ==
        Approx(number(*plan.find("step_ms"), "compute") * 67.0 / 91.6));  // fp32
  const Json recomputed = sffn_done(command + Words{"--set", "train.recompute=block"}).json();
  CHECK(number(*recomputed.find("flops"), "executed_train_per_token") > number(flops, "executed_train_per_token"));
  CHECK(number(*recomputed.find("flops"), "train_per_token") == number(flops, "train_per_token"));
  for (const Json::Member& part : recomputed.find("step_ms")->as_object()) CHECK(part.value.is_null());
  CHECK(recomputed.find("memory")->find("device")->is_null());
}

// Kills: a plan that needs data, a vocabulary that the data do not have.
TEST_CASE("plan takes the vocabulary from the data where it must, and says so where there is none", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string config = write_model(folder);
  const Ran unknown = run_sffn({"plan", config, "--device", "abacus"});
  CHECK(unknown.code == 2);
  CHECK(unknown.one_error_line("h200, h100, a100, l40s, cpu"));
  const Words from_data = {"plan", config, "--json", "--set", "model.vocab_size=from_data"};
  const Ran none = run_sffn(from_data);
  CHECK(none.code == 2);
  CHECK(none.one_error_line("--set model.vocab_size=N"));
  const std::string data = prepare_words(folder, "a", 12);
  const Json plan =
      sffn_done(from_data + Words{"--set", "data.train=[{\"path\": \"" + data + "/train-*.bin\"}]"}).json();
  CHECK(plan == sffn_done({"plan", config, "--json"}).json());
  const Ran ranks = run_sffn({"plan", config, "--ranks", "7"});
  CHECK(ranks.code == 2);
  CHECK(ranks.one_error_line("6 micro-batches"));
}

// Kills: numbers that cannot be read.
TEST_CASE("plan's table has binary units beside exact bytes", "[tools]") {
  const Ran ran = sffn_done({"plan", SFFN_SOURCE_DIR "/configs/bench/gpt2-124m.json", "--device", "h100"});
  CHECK(ran.out.find("GiB") != std::string::npos);
  CHECK(ran.out.find("MFLOPs") != std::string::npos);
  CHECK(ran.err.empty());
}

namespace {

const Words kLinks = {"--network", "per_node=2,node_gbs=8,node_us=2,net_gbs=1,net_us=20"};
const Words kRates = {"--rates", "tflops=0.1,gbs=20"};

}  // namespace

// Kills: a range that needs no links; a figure that is wrong and used; links of a single number that nobody reads.
TEST_CASE("plan refuses ranks, links and rates that cannot be in one line", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Words command = {"plan", write_model(folder)};
  const auto refused = [&](const Words& more, const std::string& says) {
    const Ran ran = run_sffn(command + more);
    INFO(says << ": " << ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line(says));
  };
  for (const char* ranks : {"0", "-1", "two", "1..", "..4", "1...4", "0..4", "2..1", "1..4..8", "1..1048577"}) {
    refused(Words{"--ranks", ranks} + kLinks + kRates, "--ranks");
  }
  refused(Words{"--ranks", "1..4"} + kRates, "--network");
  refused(Words{"--ranks", "1..4"} + kLinks, "--rates");
  refused(Words{"--ranks", "2"} + kLinks, "A..B");
  refused(Words{"--ranks", "2"} + kRates, "A..B");
  refused(Words{"--ranks", "1..4", "--network", "per_node=2,node_gbs=8"} + kRates, "node_us");
  refused(Words{"--ranks", "1..4", "--network", "per_node=2,node_gbs=8,node_us=2"} + kRates, "net_gbs");
  refused(Words{"--ranks", "1..4", "--network", "per_node=2,node_gbs=8,node_us=2,node_ms=1"} + kRates, "node_ms");
  refused(Words{"--ranks", "1..4", "--rates", "tflops=-1,gbs=2"} + kLinks, "tflops");
  refused(Words{"--ranks", "5..10"} + kLinks + kRates, "train.tokens_per_step");
  refused(Words{"--ranks", "1..4", "--device", "abacus"} + kLinks + kRates, "h200, h100, a100, l40s, cpu");
}

// Kills: a key that scripts rely on, renamed; a range that ends early.
TEST_CASE("plan of a range of ranks has a row for each layout", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const Words command = Words{"plan", write_model(folder), "--ranks", "1..4096"} + kLinks + kRates;
  const Json plan = sffn_done(command + Words{"--json"}).json();
  CHECK(has_keys(plan, {"name", "device", "network", "rates", "tokens_per_rank", "one_rank_ms", "layouts"}));
  const Json& layouts = *plan.find("layouts");
  REQUIRE(layouts.as_array().size() == 13);
  for (size_t i = 0; i < layouts.as_array().size(); ++i) {
    const Json& row = layouts.as_array()[i];
    CHECK(row.find("ranks")->as_int() == int64_t{1} << i);
    CHECK(has_keys(row, {"expert", "zero", "step_ms", "forward_backward_ms", "optimizer_ms", "exposed_communication_ms",
                         "exposed_ms", "tokens_per_second", "memory_bytes", "fits", "efficiency"}));
  }
  CHECK(sffn_done(command).out.find("efficiency") != std::string::npos);
}

// Kills: links or rates that a benchmark prints and plan does not read.
TEST_CASE("plan reads the links and rates that bench prints", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string config = write_model(folder);
  const std::string network = sffn_done({"bench", "comm", "--json"}, 2).json().find("network")->as_string();
  const std::string rates = sffn_done({"bench", "step", config, "--json"}).json().find("rates")->as_string();
  CHECK(network.rfind("per_node=2,node_gbs=", 0) == 0);
  const Json plan =
      sffn_done({"plan", config, "--json", "--ranks", "1..2", "--network", network, "--rates", rates}).json();
  CHECK(plan.find("network")->as_string() == network);
  CHECK(plan.find("rates")->as_string() == rates);
  CHECK(sffn_done({"bench", "comm", "--json"}).json().find("network")->is_null());
}
