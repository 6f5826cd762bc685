// Valid configurations, spoiled at random: whatever comes out is refused as a usage error, or is a configuration that
// keeps its promises.
#include "config/config.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/paths.h"

#include <sys/resource.h>

#include <filesystem>
#include <random>

using namespace sffn;

namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t bound) { return static_cast<size_t>(random() % bound); }

template <class T>
const T& any_of(Random& random, const std::vector<T>& list) {
  return list[below(random, list.size())];
}

// Every value of the tree, the root included.
void collect(Json& json, std::vector<Json*>& nodes) {
  nodes.push_back(&json);
  if (json.is_object()) {
    for (Json::Member& member : json.as_object()) collect(member.value, nodes);
  }
  if (json.is_array()) {
    for (Json& item : json.as_array()) collect(item, nodes);
  }
}

Json odd_value(Random& random) {
  static const std::vector<Json> kValues = {Json(),
                                            true,
                                            false,
                                            0,
                                            1,
                                            -1,
                                            2,
                                            3,
                                            7,
                                            64,
                                            INT64_MAX,
                                            INT64_MIN,
                                            int64_t{1} << 31,
                                            int64_t{1} << 40,
                                            0.0,
                                            0.5,
                                            1.0,
                                            -0.5,
                                            1.5,
                                            1e-300,
                                            1e300,
                                            "",
                                            "auto",
                                            "gpt",
                                            "llama",
                                            "rope",
                                            "sinusoidal",
                                            "swiglu",
                                            "wsd",
                                            "bf16",
                                            "from_data",
                                            "x",
                                            "\x01",
                                            "all",
                                            Json::array(),
                                            Json::object(),
                                            Json::Array{1, 2},
                                            Json::Array{0.5, 0.5}};
  return any_of(random, kValues);
}

std::string odd_key(Random& random, std::string key) {
  const size_t at = below(random, key.size() + 1);
  switch (below(random, 3)) {
    case 0:
      return key.insert(at, 1, static_cast<char>('a' + below(random, 26)));
    case 1:
      return at < key.size() ? key.erase(at, 1) : key + "s";
    default:
      return any_of<std::string>(random, {"layers", "heads", "type", "every", "d_ff", "steps", ""});
  }
}

void mutate_member(Random& random, Json::Object& object) {
  const size_t at = below(random, object.size());
  switch (below(random, 3)) {
    case 0:
      object.erase(object.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 1:
      object[at].key = odd_key(random, object[at].key);
      break;
    default:
      object.push_back({odd_key(random, object[at].key), odd_value(random)});
      break;
  }
}

void mutate_tree(Random& random, Json& root) {
  std::vector<Json*> nodes;
  collect(root, nodes);
  Json& node = *any_of(random, nodes);
  const size_t kind = below(random, 8);
  if (kind < 2 && node.is_object() && !node.as_object().empty()) {
    mutate_member(random, node.as_object());
  } else if (kind < 2 && node.is_array()) {
    node.push_back(node.as_array().empty() ? odd_value(random) : Json(node.as_array()[0]));
  } else if (kind < 5 && node.is_int() && node.as_int() > -1000000000 && node.as_int() < 1000000000) {
    const int64_t value = node.as_int();
    node = any_of<Json>(random, {value + 1, value - 1, value * 2, value * 3, value / 2, -value, value * 1000000});
  } else if (kind < 5 && node.is_double()) {
    node = any_of<Json>(random, {node.as_double() * 2, -node.as_double(), node.as_double() + 1, 1});
  } else if (kind == 5) {
    node = Json(*any_of(random, nodes));  // a value from elsewhere; a copy, for the node may lie in it
  } else {
    node = odd_value(random);
  }
}

void mutate_text(Random& random, std::string& text) {
  const size_t at = below(random, text.size());
  switch (below(random, 4)) {
    case 0:
      text[at] = static_cast<char>(random());
      break;
    case 1:
      text.erase(at, below(random, 8) + 1);
      break;
    case 2:
      text.insert(at, text.substr(below(random, text.size()), below(random, 16) + 1));
      break;
    default:
      text.insert(at, any_of<std::string>(random, {"0", "-", ".", "e9", "\"", "[", "}", ",", "null"}));
      break;
  }
}

std::vector<Json> valid_configurations() {
  std::vector<Json> list;
  const std::string folder = std::string(SFFN_SOURCE_DIR) + "/configs";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    const Config config = load_config(entry.path().string(), {});
    list.push_back(
        parse_json(read_file(entry.path().string(), size_t{1} << 20, ExitCode::kDamaged), "file", ExitCode::kDamaged));
    list.push_back(to_json(config));
  }
  return list;
}

void check_promises(const Config& c) {
  const ModelConfig& m = c.model;
  CHECK(c.micro_batches_per_step() >= 1);
  CHECK(c.micro_batches_per_step() * c.train.micro_batch * m.context == c.train.tokens_per_step);
  CHECK(m.heads % m.kv_heads == 0);
  CHECK(m.head_dim >= 1);
  CHECK((m.positions != Positions::kRope || m.head_dim % 2 == 0));
  CHECK(m.ffn.d_ff >= 1);
  CHECK(m.padded_vocab() >= m.vocab_size);
  CHECK(m.padded_vocab() % m.vocab_multiple == 0);
  CHECK(c.optimizer.schedule.warmup_steps <= c.train.steps);
  const Json resolved = to_json(c);
  CHECK(parse_config(resolved, "resolved") == c);
  CHECK(to_json(parse_config(parse_json(resolved.dump(), "text", ExitCode::kUsage), "text")) == resolved);
}

// Whether the text is accepted.
bool outcome(const std::string& text) {
  try {
    check_promises(parse_config(parse_json(text, "c.json", ExitCode::kUsage), "c.json"));
    return true;
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kUsage);
    CHECK(std::string(error.what()).starts_with("c.json: "));
    return false;
  }
}

}  // namespace

// Kills: a key read before its type is known, a division by a size that may be 0, a product that overflows, a value
// that is accepted and then not written back as it was.
TEST_CASE("a mutated configuration is refused as a usage error or round-trips", "[config]") {
  constexpr uint64_t kSeed = 20240520;
  constexpr int kMutations = 2000;
  Random random(kSeed);
  const std::vector<Json> valid = valid_configurations();
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) {
    Json json = any_of(random, valid);
    std::string text;
    if (i % 4 != 0) {
      for (size_t rounds = below(random, 3) + 1; rounds > 0; --rounds) mutate_tree(random, json);
      text = json.dump();
    } else {
      text = json.dump();
      mutate_text(random, text);
    }
    INFO("seed " << kSeed << ", mutation " << i << ": " << text);
    accepted += outcome(text);
  }
  INFO(accepted << " of " << kMutations << " were accepted");
  CHECK(accepted > kMutations / 20);
  CHECK(accepted < kMutations / 2);
}

// Kills: a list or a table of the model's size made before the size is judged.
TEST_CASE("sizes beyond any machine are refused without taking memory", "[config]") {
  const auto peak_kib = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const long before = peak_kib();
  for (const char* size : {"16777216", "2147483647", "1099511627776", "9223372036854775807"}) {
    for (const char* key : {"context", "layers", "d_model", "heads", "vocab_size"}) {
      Json json = parse_json(R"({"model": {"context": 16777216, "layers": 65536, "d_model": 16777216, "heads": 16777216,
                                 "sparse_ffn": [{"layers": "all", "type": "x"}]}})",
                             "c.json", ExitCode::kUsage);
      apply_override(json, cat("model.", key, "=", size));
      CHECK(!outcome(json.dump()));
    }
  }
  CHECK(peak_kib() - before < 64 * 1024);
}
