#include "train/scaling.h"

#include "support/catch.h"
#include "support/error_of.h"
#include "train/engine.h"
#include "train/expert_case.h"
#include "train/plan.h"
#include "train/plan_table.h"

using namespace sffn;
using namespace sffn::test;

namespace {

const Network kSlow{.per_node = 2, .node = {2e-6, 8e9}, .net = Link{20e-6, 1e9}};
constexpr Rates kRates{.flops = 1e11, .bandwidth = 20e9};

Config sparse(const char* method = "avg_k") {
  Config config = config_of(*find_ffn_method(method), Precision::kFp32);
  config.train.tokens_per_step = config.model.context * config.train.micro_batch;
  config.parallel.dispatch = Dispatch::kAuto;
  return config;
}

Scaling scaling_to(int64_t first, int64_t last, const Network& network = kSlow) {
  return {.first = first, .last = last, .network = network, .rates = kRates, .device = "cpu"};
}

double value(const Json& row, const char* key) { return row.find(key)->as_double(); }

std::vector<Json> rows_of(const Json& plan) { return plan.find("layouts")->as_array(); }

Json row_of(const Json& plan, int64_t ranks, int64_t expert) {
  for (const Json& row : rows_of(plan)) {
    if (row.find("ranks")->as_int() == ranks && row.find("expert")->as_int() == expert) return row;
  }
  FAIL("no row of " << ranks << " ranks, expert " << expert);
  return {};
}

}  // namespace

// Kills: communication of one rank; a norm that takes no time; an efficiency against another number of tokens.
TEST_CASE("one rank alone only reads its gradients for their norm, and is its own measure", "[scaling]") {
  const Json plan = plan_scaling(sparse(), scaling_to(1, 8)), one = row_of(plan, 1, 1);
  CHECK(value(one, "efficiency") == 1);
  CHECK(value(one, "step_ms") == value(plan, "one_rank_ms"));
  const Measurement measured = Engine::measure(sparse(), 0, 1);
  CHECK(value(one, "exposed_communication_ms") ==
        Approx(1e3 * 4 * static_cast<double>(measured.updated) / kRates.bandwidth));
  CHECK(value(one, "forward_backward_ms") == Approx(1e3 * measured.flops / kRates.flops));
  CHECK(value(one, "optimizer_ms") == Approx(1e3 * 28 * static_cast<double>(measured.updated) / kRates.bandwidth));
  for (const Json& row : rows_of(plan)) {
    CHECK(value(row, "efficiency") == Approx(value(plan, "one_rank_ms") / value(row, "step_ms")));
    CHECK(value(row, "step_ms") == Approx(value(row, "forward_backward_ms") + value(row, "optimizer_ms") +
                                          value(row, "exposed_communication_ms")));
  }
}

// Kills: ranks that share the tokens of the smallest run; a layout missed; memory of another layout.
TEST_CASE("each layout needs the memory that plan says of it alone", "[scaling]") {
  Config config = sparse();
  config.train.tokens_per_step *= 2 * 3;  // three micro-batches on each of two ranks
  const Json plan = plan_scaling(config, scaling_to(2, 8));
  CHECK(value(plan, "tokens_per_rank") == 3 * static_cast<double>(config.model.context));
  REQUIRE(rows_of(plan).size() == 2 + 3 + 4);
  for (const Json& row : rows_of(plan)) {
    const int64_t ranks = row.find("ranks")->as_int();
    Config of_layout = config;
    of_layout.train.tokens_per_step = config.train.tokens_per_step / 2 * ranks;
    of_layout.parallel.expert = row.find("expert")->as_int();
    const Json alone = plan_run(of_layout, static_cast<int>(ranks), "cpu");
    INFO(ranks << " ranks, expert " << of_layout.parallel.expert);
    CHECK(row.find("memory_bytes")->as_int() == alone.find("memory")->find("per_rank")->find("total")->as_int());
    CHECK(row.find("fits")->is_null());
  }
}

// Kills: a share of the gradients that is not sent; sums that take no time; a link counted for the other.
TEST_CASE("gradients of a dense model take what pairs of ranks need for them", "[scaling]") {
  Config config = sparse();
  config.model.sparse_ffn = Json::array();
  config.parallel.zero = 0;  // every rank gets all gradients of every other
  const auto parameters = static_cast<double>(Engine::measure(config, 0, 1).updated), bytes = 4 * parameters;
  const Json plan = plan_scaling(config, scaling_to(1, 4));
  const auto gradients = [&](int64_t ranks) { return value(*row_of(plan, ranks, 1).find("exposed_ms"), "gradients"); };
  // To one peer of the node: packed, added and put in place.
  const double norm = bytes / 20e9;
  CHECK(gradients(2) == Approx(1e3 * (2e-6 + bytes / 8e9 + 7 * bytes / 20e9 + norm)));
  // To three, one of them on the node.
  const double far = 2 * bytes / 1e9, sums = 3 * bytes * (5 + 2.0 / 3) / 20e9;
  CHECK(gradients(4) == Approx(1e3 * (2e-6 + 2 * 20e-6 + far + sums + norm)));
  CHECK(value(row_of(plan, 4, 1), "optimizer_ms") == value(row_of(plan, 1, 1), "optimizer_ms"));
}

// Kills: replicas of blocks that are taken for neighbours.
TEST_CASE("gradients of blocks that are spread over a node go to other nodes", "[scaling]") {
  Config config = sparse("rand_hash");
  config.train.tokens_per_step *= 4;
  const Json plan = plan_scaling(config, scaling_to(4, 4));
  config.parallel.expert = 2;
  const Measurement measured = Engine::measure(config, 0, 4);
  const Sent all = measured.traffic.all_to_all, blocks = measured.replica_traffic.all_to_all;
  REQUIRE(blocks.bytes > 0);
  const double sums = all.bytes * (5 + 2.0 / 3) + blocks.bytes * 7, norm = 4 * static_cast<double>(measured.updated);
  const double seconds = pairwise_seconds(kSlow, {4, 2}, all) + 20e-6 + blocks.bytes / 1e9 + (sums + norm) / 20e9;
  CHECK(value(*row_of(plan, 4, 2).find("exposed_ms"), "gradients") == Approx(1e3 * seconds));
}

// Kills: a figure that is read and not used, or has the wrong sign.
TEST_CASE("a faster link, a faster rank or a shorter message never makes a step longer", "[scaling]") {
  for (const char* method : {"avg_k", "rand_hash", "switch"}) {
    const auto steps = [&](const Network& network, const Rates& rates) {
      Scaling scaling = scaling_to(4, 16, network);
      scaling.rates = rates;
      Config config = sparse(method);
      config.train.tokens_per_step *= 4;
      return rows_of(plan_scaling(config, scaling));
    };
    const std::vector<Json> before = steps(kSlow, kRates);
    const auto none_longer = [&](const Network& network, const Rates& rates) {
      const std::vector<Json> after = steps(network, rates);
      bool shorter = false;
      for (size_t i = 0; i < before.size(); ++i) {
        CHECK(value(after[i], "step_ms") <= value(before[i], "step_ms"));
        shorter = shorter || value(after[i], "step_ms") < value(before[i], "step_ms");
      }
      CHECK(shorter);
    };
    for (double Link::*figure : {&Link::latency, &Link::bandwidth}) {
      const double better = figure == &Link::latency ? 0.5 : 2;
      Network near = kSlow, far = kSlow;
      near.node.*figure *= better;
      (*far.net).*figure *= better;
      none_longer(near, kRates);
      none_longer(far, kRates);
    }
    none_longer(kSlow, {.flops = 2 * kRates.flops, .bandwidth = kRates.bandwidth});
    none_longer(kSlow, {.flops = kRates.flops, .bandwidth = 2 * kRates.bandwidth});
    Network wider = kSlow;
    wider.per_node = 4;
    none_longer(wider, kRates);
  }
}

// Kills: tokens that wait for their whole micro-batch; chunks that cost no messages.
TEST_CASE("tokens on their way hide behind the computing of other chunks", "[scaling]") {
  Config config = sparse("rand_hash");
  config.train.micro_batch = 4;
  config.train.tokens_per_step = 2 * 4 * config.model.context;
  config.parallel.dispatch = Dispatch::kGather;                         // which exchanges no counts
  const Network broad{.per_node = 2, .node = {1e-12, 1e9}, .net = {}};  // bytes alone count
  const auto tokens = [&](int64_t chunk, double flops) {
    config.parallel.expert_chunk = chunk;
    Scaling scaling = scaling_to(2, 2, broad);
    scaling.rates = Rates{.flops = flops, .bandwidth = 20e9};
    return value(*row_of(plan_scaling(config, scaling), 2, 2).find("exposed_ms"), "tokens");
  };
  const int64_t n = 4 * config.model.context;
  const double whole = tokens(n, 1e6), instant = 1e20;
  CHECK(tokens(n / 4, 1e6) == Approx(whole / 4));               // the first bring, the last return
  CHECK(tokens(n / 4, instant) == Approx(tokens(n, instant)));  // nothing to hide behind
}

// Kills: a GPU's plan with the buffers of a CPU; a device that is too small for all and says so of none.
TEST_CASE("of a known device are rates and memory known", "[scaling]") {
  Config config = sparse();
  config.train.tokens_per_step *= 4;
  Scaling scaling = scaling_to(1, 1);
  scaling.rates.reset();
  CHECK(error_of([&] { plan_scaling(config, scaling); }).says("--rates"));
  scaling.device = "h100";
  const Json plan = plan_scaling(config, scaling);
  CHECK(row_of(plan, 1, 1).find("fits")->as_bool());
  CHECK(plan.find("rates")->as_string() == "tflops=53.52,gbs=3001");  // 0.799 of 67 and 0.896 of 3350, fp32
  const Json alone = plan_run(config, 1, "h100");
  CHECK(row_of(plan, 1, 1).find("memory_bytes")->as_int() ==
        alone.find("memory")->find("per_rank")->find("total")->as_int());
  const auto gradients = [&](const char* device) {
    return plan_run(config, 1, device).find("memory")->find("per_rank")->find("gradients")->as_int();
  };
  CHECK(gradients("cpu") == 3 * gradients("h100"));  // of four micro-batches a tree of sums keeps three
}

// Kills: tokens that ranks do not share alike; a model that cannot be measured.
TEST_CASE("a step that the smallest number of ranks cannot share alike is refused", "[scaling]") {
  Config config = sparse();
  CHECK(error_of([&] { plan_scaling(config, scaling_to(2, 4)); }).says("train.tokens_per_step"));
  config.train.tokens_per_step *= 3;
  CHECK(error_of([&] { plan_scaling(config, scaling_to(2, 4)); }).says("12 is expected"));
  config.model.vocab_size = 0;
  CHECK(error_of([&] { plan_scaling(config, scaling_to(1, 1)); }).says("model.vocab_size"));
  CHECK(error_of([&] {
          plan_scaling(sparse(), scaling_to(1, 4, {.per_node = 2, .node = {1e-6, 1e9}, .net = {}}));
        }).says("net_gbs"));
}

// Kills: a layout marked that is slower than another, or more than one for as many ranks.
TEST_CASE("the table has a line a layout and marks the fastest of as many ranks", "[scaling]") {
  Config config = sparse();
  config.train.tokens_per_step *= 2;
  const Json plan = plan_scaling(config, scaling_to(2, 4));
  const std::string table = scaling_table(plan);
  const auto count = [&](const std::string& text) {
    int found = 0;
    for (size_t at = table.find(text); at != std::string::npos; at = table.find(text, at + 1)) ++found;
    return found;
  };
  CHECK(count("%") == static_cast<int>(rows_of(plan).size()));
  CHECK(count("%  *\n") == 2);
  for (const int64_t ranks : {2, 4}) {
    double least = 1e300;
    for (const int64_t expert : {1, 2, 4}) {
      if (expert <= ranks) least = std::min(least, value(row_of(plan, ranks, expert), "step_ms"));
    }
    for (size_t at = 0; (at = table.find("%  *\n", at)) != std::string::npos; ++at) {
      const size_t begin = table.rfind('\n', at) + 1;
      long long row_ranks = 0, row_expert = 0;
      REQUIRE(std::sscanf(table.c_str() + begin, "%lld%lld", &row_ranks, &row_expert) == 2);
      if (row_ranks == ranks) CHECK(value(row_of(plan, row_ranks, row_expert), "step_ms") == least);
    }
  }
}
