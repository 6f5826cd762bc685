#include "config/layers.h"

#include "config/config.h"
#include "support/catch.h"

using namespace sffn;

namespace {

Json parse(std::string_view text) { return parse_json(text, "test", ExitCode::kUsage); }
std::vector<int> layers_of(std::string_view selection, int layers) {
  return resolve_layers(parse(selection), layers, "c: x");
}
template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

// Kills: counting layers from 1; an offset that defaults to 0; a last layer left out.
TEST_CASE("a selection of layers resolves to ascending numbers from 0", "[config]") {
  using Layers = std::vector<int>;
  CHECK(layers_of(R"({"every": 6})", 24) == Layers{5, 11, 17, 23});
  CHECK(layers_of(R"({"every": 6})", 23) == Layers{5, 11, 17});
  CHECK(layers_of(R"({"every": 2, "offset": 0})", 5) == Layers{0, 2, 4});
  CHECK(layers_of(R"({"every": 1})", 3) == Layers{0, 1, 2});
  CHECK(layers_of(R"({"every": 4, "offset": 3})", 4) == Layers{3});
  CHECK(layers_of("[11, 5]", 12) == Layers{5, 11});
  CHECK(layers_of("[0]", 1) == Layers{0});
  CHECK(layers_of("\"all\"", 3) == Layers{0, 1, 2});
}

// Kills: a layer outside the model, a repeated one or an empty choice that is silently dropped.
TEST_CASE("a selection that means nothing is refused with its place", "[config]") {
  const struct {
    const char *selection, *place, *rule;
  } cases[] = {
      {"[12]", "c: x.0: ", "[0, 11]"},
      {"[5, -1]", "c: x.1: ", "[0, 11]"},
      {"[5, 5.0]", "c: x.1: ", "is 5.0; a layer number"},
      {"[5, 11, 5]", "c: x.2: ", "stands twice"},
      {"[4294967296]", "c: x.0: ", "[0, 11]"},
      {"[]", "c: x: ", "at least one layer"},
      {"{}", "c: x: every: ", "is missing"},
      {R"({"every": 0})", "c: x: every: ", ">= 1"},
      {R"({"every": -6})", "c: x: every: ", ">= 1"},
      {R"({"every": 6, "offset": 6})", "c: x: ", "an offset below every"},
      {R"({"every": 6, "offset": -1})", "c: x: offset: ", ">= 0"},
      {R"({"every": 13})", "c: x: ", "chooses none of 12 layers"},
      {R"({"every": 9223372036854775807})", "c: x: ", "chooses none of 12 layers"},
      {R"({"evry": 6})", "c: x: every: ", "is \"evry\" meant"},
      {R"({"every": 6, "of": 1})", "c: x: of: ", "known here are every, offset"},
      {"\"some\"", "c: x: ", "or \"all\" is expected"},
      {"6", "c: x: ", "or \"all\" is expected"},
      {"null", "c: x: ", "or \"all\" is expected"},
  };
  for (const auto& c : cases) {
    const std::string error = error_of([&] { layers_of(c.selection, 12); });
    INFO(c.selection);
    INFO(error);
    CHECK(error.starts_with(c.place));
    CHECK(error.find(c.rule) != std::string::npos);
  }
}

// Kills: the later of two overlapping entries winning.
TEST_CASE("each layer takes at most one entry", "[config]") {
  const Json list = parse(R"([{"layers": {"every": 2}}, {"layers": [0, 2]}])");
  CHECK(assign_layers(list, 4, "c: m") == std::vector<int>{1, 0, 1, 0});
  CHECK(assign_layers(Json::array(), 2, "c: m") == std::vector<int>{-1, -1});
  const Json overlap = parse(R"([{"layers": [1, 3]}, {"layers": "all"}])");
  const std::string error = error_of([&] { assign_layers(overlap, 4, "c: m"); });
  CHECK(error.starts_with("c: m.1.layers: layer 1 is already chosen by c: m.0.layers"));
}
