#include "data/utf8.h"
#include "model/memory_plan.h"
#include "tools/tool_run.h"
#include "train/inference.h"
#include "train/sample.h"

using namespace sffn;
using namespace sffn::test;

namespace {

struct Trained {
  TempFolder folder{TempFolder::kMemory};
  std::string run = folder / "run";

  explicit Trained(const Words& tokenizer = {}, const Words& more = {}) {
    const std::string data = prepare_words(folder, "a", 24, Words{"--val-fraction", "0.1"} + tokenizer);
    sffn_done(train_command(write_model(folder), data, run) + more);
  }
  std::string text(const Words& more, const std::string& prompt = "the ") const {
    return sffn_done(Words{"generate", "--checkpoint", run, "--prompt", prompt, "--tokens", "40"} + more).out;
  }
};

// The text of a model that runs the whole window for every token: a full context starts anew with its last half.
std::string slowly_generated(const std::string& run, const std::string& prompt, int64_t count, uint64_t seed) {
  const auto alone = make_self_communicator();
  InferenceModel model(*alone, cpu_runtime(), run, 1, 0);
  const auto tokenizer = model.tokenizer();
  const PassPlan plan = measure_memory(model.config(), 1, model.time()).evaluate;
  Arena saved(cpu_runtime(), "saved", plan.saved), scratch(cpu_runtime(), "scratch", plan.scratch);
  const RandomKey key = random_key(seed, RandomSite::kSampling, 0, 0);
  std::vector<int32_t> window;
  tokenizer->encode(window, prompt);
  std::string text = prompt;
  for (int64_t i = 0; i < count; ++i) {
    if (std::ssize(window) > model.time()) window.erase(window.begin(), window.end() - model.time() / 2);
    Batch batch = make_batch(1, std::ssize(window));
    batch.inputs = window;
    Context ctx{.stream = model.stream(), .saved = saved, .scratch = scratch, .parallel = {}};
    Inspection seen;
    seen.logits = true;
    model.model().evaluate(ctx, batch, nullptr, &seen);
    const std::vector<float> last(seen.logits_out.end() - model.config().model.vocab_size, seen.logits_out.end());
    const int32_t id = sample_token(last, {.top_k = 2}, random_uniform(key, static_cast<uint64_t>(i)));
    if (id == tokenizer->end_of_document()) break;
    window.push_back(id);
    text += tokenizer->text_of(id);
  }
  return text;
}

bool shows_no_control(const std::string& text) {
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f) return false;
  }
  return count_invalid_utf8(text) == 0;
}

}  // namespace

// Kills: draws that depend on time, a seed that is not used, filters that let other tokens through.
TEST_CASE("the same seed gives the same text, and greedy choices need none", "[tools]") {
  const Trained trained;
  const std::string one = trained.text({"--seed", "1"});
  CHECK(one.rfind("the ", 0) == 0);
  CHECK(trained.text({"--seed", "1"}) == one);
  CHECK(trained.text({"--seed", "2"}) != one);
  const std::string greedy = trained.text({"--temperature", "0"});
  CHECK(trained.text({"--top-k", "1", "--seed", "5"}) == greedy);
  CHECK(trained.text({"--top-p", "1e-9", "--seed", "6"}) == greedy);
  CHECK(trained.text({"--top-k", "257", "--seed", "1"}) == one);
}

// Kills: keys and values of the wrong position, a full context that shifts instead of starting anew.
TEST_CASE("cached keys and values give the text of whole windows, beyond the context too", "[tools]") {
  const Trained trained({"--tokenizer", "spm-train:300"},
                        {"--set", "model.vocab_size=300", "--set", "train.steps=150"});
  for (const std::string prompt :
       {"the cell", "of the memory layer key sparse memory of the naive layer cell cell of"}) {
    for (const uint64_t seed : {3, 4}) {
      const std::string expected = slowly_generated(trained.run, prompt, 40, seed);
      REQUIRE(shows_no_control(expected));  // words: nothing is escaped
      CHECK(trained.text({"--top-k", "2", "--seed", std::to_string(seed)}, prompt) == expected + "\n");
    }
  }
}

// Kills: an id drawn that no text belongs to.
TEST_CASE("a model with more ids than its tokenizer draws those of the tokenizer", "[tools]") {
  const Trained trained({}, {"--set", "model.vocab_size=2000"});
  CHECK(trained.text({"--temperature", "5"}).size() > 4);
}

// Kills: bytes written as they come, so that a model or a prompt steers the terminal.
TEST_CASE("control characters and bytes that are no text are escaped", "[tools]") {
  const Trained trained;
  const std::string prompt = "a\x1b[31m\x7f\xc2\x9b\xff\xc3(\xe2\x82\xac\n\tz";
  const std::string text = trained.text({"--temperature", "30"}, prompt);
  CHECK(text.rfind("a\\x1b[31m\\x7f\\xc2\\x9b\\xff\\xc3(\xe2\x82\xac\n\tz", 0) == 0);
  CHECK(shows_no_control(text));
  CHECK(text.find("\\x", 40) != std::string::npos);
}

// Kills: a token's bytes shown apart.
TEST_CASE("a character that several tokens spell comes out whole", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  std::filesystem::create_directories(folder / "text");
  for (const char c : {'a', 'b', 'c', 'd', 'e'}) {
    std::string text(2, c);  // an odd number of tokens, so that characters begin at even and odd positions
    for (int i = 0; i < 600; ++i) text += "\xc3\xa9";
    write_text(folder / (std::string("text/") + c + ".txt"), text);
  }
  sffn_done({"prepare", "--input", folder / "text", "--out", folder / "data"});
  sffn_done(train_command(write_model(folder), folder / "data", folder / "run") + Words{"--set", "train.steps=200"});
  const Ran ran = sffn_done(
      {"generate", "--checkpoint", folder / "run", "--prompt", "\xc3\xa9", "--temperature", "0", "--tokens", "20"});
  std::string expected;
  for (int i = 0; i < 11; ++i) expected += "\xc3\xa9";
  CHECK(ran.out == expected + "\n");
}

// Kills: a crash on no tokens, options that are not looked at before the model runs.
TEST_CASE("generate takes an empty prompt and refuses options out of range", "[tools]") {
  const Trained trained;
  CHECK(!trained.text({}, "").empty());
  for (const Words& bad : {Words{"--temperature", "-1"}, Words{"--top-p", "0"}, Words{"--top-p", "1.5"},
                           Words{"--top-k", "-2"}, Words{"--tokens", "0"}}) {
    const Ran ran = run_sffn(Words{"generate", "--checkpoint", trained.run, "--prompt", "x"} + bad);
    INFO(ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.one_error_line(bad[0]));
  }
  const Ran absent = run_sffn({"generate", "--checkpoint", trained.folder / "absent", "--prompt", "x"});
  CHECK(absent.code == 3);
  CHECK(absent.one_error_line("absent"));
}
