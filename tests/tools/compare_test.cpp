#include "tools/tool_run.h"

#include <algorithm>

using namespace sffn;
using namespace sffn::test;

// Kills: tensors of one side compared with themselves, a row that is left out, an exit code that is always 0.
TEST_CASE("compare lists every tensor of a step, and one backend agrees with itself to the bit", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string config = write_model(folder);
  const Ran ran = run_sffn({"compare", config, "--backends", "cpu,cpu", "--steps", "2", "--json"});
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  const Json report = parse_json(ran.out, "compare", ExitCode::kRunFailed);
  CHECK(report.find("agree")->as_bool());
  CHECK(report.find("steps")->as_int() == 2);
  std::vector<std::string> names;
  for (const Json& row : report.find("tensors")->as_array()) {
    names.push_back(row.find("name")->as_string());
    CHECK(row.find("error")->as_double() == 0);
  }
  for (const char* name : {"hidden.0", "logits", "loss", "grad.embed.tokens.weight", "embed.tokens.weight"}) {
    INFO(name);
    CHECK(std::count(names.begin(), names.end(), name) == 1);
  }
}

// Kills: a comparison of one backend, or of one that is not in the build, that claims to agree.
TEST_CASE("compare refuses what it cannot compare", "[tools]") {
  const TempFolder folder(TempFolder::kMemory);
  const std::string config = write_model(folder);
  const Ran one = run_sffn({"compare", config, "--backends", "cpu"});
  CHECK(one.code == 2);
  CHECK(one.err.find("--backends: takes two") != std::string::npos);
  for (const std::string name : {"tpu", "auto"}) {
    const Ran unknown = run_sffn({"compare", config, "--backends", "cpu," + name});
    CHECK(unknown.code == 2);
    CHECK(unknown.one_error_line("\"" + name + "\" is not a backend; cpu and cuda are"));
  }
  const Ran cuda = run_sffn({"compare", config});
  CHECK(cuda.code == 2);
  CHECK(cuda.err.find("cuda is not in this build; use cpu") != std::string::npos);
}
