// The published set-ups: counts to the unit, FLOPs to the digits that are printed (methods.md section 7).
#include "config/config.h"
#include "model/flops.h"
#include "support/catch.h"
#include "support/paths.h"

#include <string>

using namespace sffn;

namespace {

Config paper(const std::string& name) {
  return load_config(std::string(SFFN_SOURCE_DIR) + "/configs/paper/" + name + ".json", {});
}

}  // namespace

// Kills: biases per block in place of one vector a layer, sinusoidal positions counted as parameters, an output matrix
// counted beside the tied embedding.
TEST_CASE("the paper's models have the published numbers of parameters", "[model][paper]") {
  const auto count = [](const std::string& name) { return count_parameters(paper(name).model); };
  CHECK(count("dense").total == 354'740'224);
  CHECK(count("avg_k-e4-g64").total == 455'452'672);
  CHECK(count("avg_k-e16-g64").total == 858'302'464);
  CHECK(count("avg_k-e32-g64").total == 1'395'435'520);
  for (const char* name : {"avg_k-e16-g1", "vanilla_m-e16-g64", "rand_hash-e16-g4096"}) {
    CHECK(count(name).total == 858'302'464);
    CHECK(count(name).active == 354'740'224);
  }
}

// Kills: a factor 3 for 4 (recomputation), a selection that is not counted or counted for every layer, the padded
// vocabulary in place of 51200.
TEST_CASE("the paper's models cost the published training FLOPs", "[model][paper]") {
  const auto zflops = [](const std::string& name) { return paper_zflops(paper(name)); };
  const auto near = [](double value) { return Approx(value).margin(5e-5); };
  const double dense = zflops("dense");
  CHECK(dense == near(0.2121));
  CHECK(zflops("vanilla_m-e16-g64") == near(0.3329));
  CHECK(zflops("avg_k-e16-g64") == near(0.2142));
  CHECK(zflops("avg_k-e16-g64") / dense == Approx(1.0095).margin(5e-5));
  CHECK(zflops("avg_k-e16-g256") == near(0.2127));
  CHECK(zflops("avg_k-e32-g64") == near(0.2162));
  CHECK(zflops("rand_hash-e32-g64") == dense);
}
