#include "ffn/registry.h"
#include "model/gradient_check.h"
#include "support/error_of.h"

#include <algorithm>
#include <cmath>
#include <tuple>

using namespace sffn;
using namespace sffn::test;

namespace {

using Values = std::vector<double>;
constexpr const char* kRouters[] = {"output_sigmoid", "input_sigmoid", "softmax", "none"};
constexpr size_t D = 12, kCells = 24;  // d_model and d_ff

Config finedeep(Config config, const std::string& keys) {
  Json entry = parse_json(cat(R"({"layers": [1], "type": "finedeep")", keys, "}"), "entry", ExitCode::kUsage);
  config.model.ffn.d_ff = kCells;
  config.model.sparse_ffn = Json(Json::Array{entry});
  return config;
}

std::string keys_of(size_t M, size_t K, const std::string& router, bool sub_layer_norm) {
  return cat(R"(, "sub_layers": )", M, R"(, "experts": )", K, R"(, "router": ")", router, R"(", "sub_layer_norm": )",
             sub_layer_norm ? "true" : "false");
}

Values read(ModelRun& run, const std::string& name) {
  const Param* param = run.model().params().find("layers.1." + name);
  REQUIRE(param != nullptr);
  return read_values(run.stream(), param->value);
}

double dot(const double* a, const double* b) {
  double sum = 0;
  for (size_t d = 0; d < D; ++d) sum += a[d] * b[d];
  return sum;
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Expected {
  Values h, weights, gates;  // [N, D], [N, M·K], and silu(x·Gate) of every cell
};

// The equations expert by expert, each with its own output e_i.
Expected expected_output(ModelRun& run, Values h, size_t M, size_t K, const std::string& router, bool sub_layer_norm) {
  const size_t N = h.size() / D, G = kCells / (M * K);
  const Values up = read(run, "ffn.keys.weight"), gate = read(run, "ffn.gate_keys.weight"),
               down = read(run, "ffn.values.weight");
  Expected out{.h = {}, .weights = Values(N * M * K, 1.0), .gates = {}};
  for (size_t j = 0; j < M; ++j) {
    const Values norm = read(run, sub_layer_norm ? cat("ffn.sub.", j, ".norm.weight") : "ffn_norm.weight");
    const Values R = router == "none" ? Values() : read(run, cat("ffn.sub.", j, ".router.weight"));
    for (size_t n = 0; n < N; ++n) {
      double* row = &h[n * D];
      const double rms = std::sqrt(dot(row, row) / D + 1e-5);
      Values x(D), logits(K);
      for (size_t d = 0; d < D; ++d) x[d] = row[d] / rms * norm[d];
      std::vector<Values> e(K, Values(D));
      double total = 0;
      for (size_t i = 0; i < K; ++i) {
        for (size_t g = 0; g < G; ++g) {
          const size_t c = (j * K + i) * G + g;
          const double z = dot(&x[0], &gate[c * D]), activation = z * sigmoid(z);
          out.gates.push_back(activation);
          for (size_t d = 0; d < D; ++d) e[i][d] += activation * dot(&x[0], &up[c * D]) * down[c * D + d];
        }
        if (router != "none") logits[i] = dot(router == "output_sigmoid" ? &e[i][0] : &x[0], &R[i * D]);
        total += std::exp(logits[i]);
      }
      for (size_t i = 0; i < K; ++i) {
        double& r = out.weights[n * M * K + j * K + i];
        if (router == "softmax") r = std::exp(logits[i]) / total;
        if (router == "output_sigmoid" || router == "input_sigmoid") r = sigmoid(logits[i]);
        for (size_t d = 0; d < D; ++d) row[d] += r * e[i][d];
      }
    }
  }
  out.h = h;
  return out;
}

// The second layer's FFN then maps hidden 0 to hidden 1.
void remove_attention(ModelRun& run) {
  for (const char* name : {"layers.1.attn.out.weight", "layers.1.attn.out.bias"}) {
    if (Param* param = run.model().params().find(name)) {
      write_values(run.stream(), param->value, Values(static_cast<size_t>(param->value.numel())));
    }
  }
}

std::string message_of(const std::string& keys) {
  return error_of([&] { resolve_ffn(finedeep(tiny_model(), keys).model, "c.json"); }).what;
}

}  // namespace

// Kills: the experts of another sub-layer, a router row of another expert, one norm for all, a missing residual
// addition, weights that are recorded in another order.
TEST_CASE("Finedeep is its equations, expert by expert", "[ffn][finedeep]") {
  const Batch batch = random_batch(3, 7, 29);
  for (const std::string router : kRouters) {
    for (const auto& [M, K, norm] : {std::tuple{2u, 3u, true}, {3u, 2u, false}, {1u, 24u, true}, {4u, 1u, true}}) {
      for (const auto& [precision, bound] : {std::pair{Precision::kFp64, 1e-13}, {Precision::kFp32, 1e-5}}) {
        const std::string keys = keys_of(M, K, router, norm);
        INFO(keys);
        // a backbone of LayerNorms, GELU and biases, none of which Finedeep takes
        ModelRun run(finedeep(tiny_model(precision), keys));
        remove_attention(run);
        Inspection found{
            .hidden = true, .nll = {}, .extra_loss = {}, .logits_out = {}, .hidden_out = {}, .choices = {}};
        run.evaluate(batch, nullptr, &found);
        const Expected expected = expected_output(run, found.hidden_out[0], M, K, router, norm);
        check_close(found.hidden_out[1], expected.h, bound);
        REQUIRE(found.choices.size() == 1);
        CHECK(found.choices[0].per_token == M * K);
        check_close(found.choices[0].weights, expected.weights, bound);
        for (size_t i = 0; i < found.choices[0].blocks.size(); ++i) {
          if (found.choices[0].blocks[i] != static_cast<int32_t>(i % (M * K))) FAIL("block " << i);
        }
      }
    }
  }
}

// Kills: a term of the backward pass of one router, a norm's gradient that is overwritten by the next sub-layer's,
// dropout that one sub-layer shares with another or leaves out of its gradient.
TEST_CASE("gradients of every Finedeep router are complex steps, with dropout", "[ffn][finedeep]") {
  for (const std::string router : kRouters) {
    for (const bool norm : {true, false}) {
      Config config = finedeep(tiny_model(), keys_of(2, 3, router, norm));
      config.model.dropout = norm ? 0.25 : 0;
      INFO(router << " " << norm);
      check_gradients(config, random_batch(2, 5, 29));
    }
  }
}

// Kills: a scale that slips into the unweighed product, another order of gate and keys, another dropout of sub-layer 0.
TEST_CASE("Finedeep of one unweighed expert is dense SwiGLU, bit for bit", "[ffn][finedeep]") {
  const Batch batch = random_batch(3, 7, 29);
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp64}) {
    Config dense = with_dropout(in_precision(llama_grouped(), precision));
    dense.model.ffn.d_ff = kCells;
    ModelRun expected(dense), found(finedeep(dense, keys_of(1, 1, "none", false)));
    CHECK(found.forward_backward(batch, 0.125).nll == expected.forward_backward(batch, 0.125).nll);
    CHECK(found.gradient_bytes() == expected.gradient_bytes());
  }
}

// Kills: recomputation under another router's rules, scratch that is released before the branch is used.
TEST_CASE("recomputation changes no bit of any Finedeep router", "[ffn][finedeep]") {
  const Batch batch = random_batch(3, 7, 29);
  for (const std::string router : kRouters) {
    Config config = finedeep(tiny_model(Precision::kBf16), keys_of(2, 2, router, true));
    config.model.dropout = 0.1;
    ModelRun kept(config);
    const double nll = kept.forward_backward(batch, 0.125).nll;
    for (const Recompute recompute : {Recompute::kFfn, Recompute::kBlock}) {
      config.train.recompute = recompute;
      ModelRun again(config);
      CHECK(again.forward_backward(batch, 0.125).nll == nll);
      CHECK(again.gradient_bytes() == kept.gradient_bytes());
    }
  }
}

// Kills: routers in bf16, a bias from the backbone, norms counted twice, tables that start otherwise than dense ones.
TEST_CASE("Finedeep has the tensors, parameters and FLOPs of its page", "[ffn][finedeep]") {
  const Config config = finedeep(tiny_model(Precision::kBf16), keys_of(2, 3, "output_sigmoid", true));
  ModelRun run(config);
  ParamStore& params = run.model().params();
  const auto shape_of = [&](const std::string& name) {
    const Param* param = params.find("layers.1." + name);
    return param != nullptr ? param->spec.shape.str() : "absent";
  };
  for (const char* table : {"ffn.keys.weight", "ffn.gate_keys.weight", "ffn.values.weight"}) {
    CHECK(shape_of(table) == "[24, 12]");
  }
  for (const char* absent : {"ffn.keys.bias", "ffn.values.bias", "ffn_norm.weight", "ffn.sub.2.norm.weight"}) {
    CHECK(shape_of(absent) == "absent");
  }
  for (const char* sub : {"ffn.sub.0.", "ffn.sub.1."}) {
    CHECK(shape_of(cat(sub, "norm.weight")) == "[12]");
    CHECK(shape_of(cat(sub, "norm.bias")) == "absent");
    CHECK(shape_of(cat(sub, "router.weight")) == "[3, 12]");
    const Param& router = *params.find(cat("layers.1.", sub, "router.weight"));
    CHECK(router.value.dtype() == DType::kF32);
    CHECK(router.spec.decay());
    CHECK(router.spec.init.value == 0.02);
  }
  CHECK(params.find("layers.1.ffn.values.weight")->spec.init.value ==
        params.find("layers.0.ffn.values.weight")->spec.init.value);

  const auto cost_of = [&](const std::string& router, bool norm) {
    const Config other = finedeep(tiny_model(), keys_of(2, 3, router, norm));
    return resolve_ffn(other.model, "c.json")[1].options->cost(other.model);
  };
  const int64_t tables = 3 * 12 * 24;
  CHECK(cost_of("output_sigmoid", true).parameters == tables + 2 * 3 * 12 + 2 * 12);
  CHECK(cost_of("output_sigmoid", true).active_parameters == tables + 2 * 3 * 12 + 2 * 12);
  CHECK(cost_of("softmax", false).parameters == tables + 2 * 3 * 12 + 12);
  CHECK(cost_of("none", true).parameters == tables + 2 * 12);
  CHECK(cost_of("output_sigmoid", true).flops_per_token == 2 * tables + 4 * 2 * 3 * 12);
  CHECK(cost_of("none", true).flops_per_token == 2 * tables);
}

// Kills: counts outside of counted passes, a share over one sub-layer, the hidden vector counted in place of the gate.
TEST_CASE("the shares of gate activations near zero are over all sub-layers of counted passes", "[ffn][finedeep]") {
  const Batch batch = random_batch(3, 7, 29);
  for (const Recompute recompute : {Recompute::kNone, Recompute::kBlock}) {
    Config config = finedeep(tiny_model(), keys_of(3, 2, "output_sigmoid", true));
    config.train.recompute = recompute;
    ModelRun run(config);
    remove_attention(run);
    FfnLayer& layer = *run.model().ffn_layers()[1];
    Inspection found;
    found.hidden = true;
    run.evaluate(batch, nullptr, &found);
    CHECK(read_values(run.stream(), layer.counters()) == Values(4));
    Context ctx = run.context();
    ctx.count_choices = true;
    run.model().forward_backward(ctx, batch, 0.125);
    const Values counts = read_values(run.stream(), layer.counters());
    const Values gates = expected_output(run, found.hidden_out[0], 3, 2, "output_sigmoid", true).gates;
    REQUIRE(counts[0] == static_cast<double>(21 * kCells));
    const Json shares = layer.statistics(counts);
    for (const auto& [name, bound] :
         {std::pair{"near_zero_0.001", 0.001}, {"near_zero_0.01", 0.01}, {"near_zero_0.1", 0.1}}) {
      const double below = std::count_if(gates.begin(), gates.end(), [&](double g) { return std::abs(g) < bound; });
      CHECK(shares.find(name)->as_double() == below / counts[0]);
    }
    CHECK(shares.find("near_zero_0.1")->as_double() > 0);
    CHECK(layer.statistics(Values(4)).find("near_zero_0.1")->as_double() == 0);
  }
}

// Kills: a division that does not come out in silence; an option of another method let through.
TEST_CASE("bad Finedeep entries are errors that name the key and the rule", "[ffn][finedeep]") {
  CHECK(message_of(R"(, "sub_layers": 5, "experts": 2)") ==
        "c.json: model.sparse_ffn.0.experts: is 2 in each of 5 sub_layers; d_ff, 24, must be a multiple of sub_layers "
        "times experts");
  CHECK(message_of(R"(, "sub_layers": 2, "experts": 5)") ==
        "c.json: model.sparse_ffn.0.experts: is 5 in each of 2 sub_layers; d_ff, 24, must be a multiple of sub_layers "
        "times experts");
  for (const auto& [keys, place] : {std::pair{R"(, "experts": 2)", "sub_layers"},
                                    {R"(, "sub_layers": 2)", "experts"},
                                    {R"(, "sub_layers": 0, "experts": 2)", "sub_layers"},
                                    {R"(, "sub_layers": 1, "experts": 1, "router": "tanh")", "router"},
                                    {R"(, "sub_layers": 1, "experts": 1, "block_size": 4)", "block_size"},
                                    {R"(, "sub_layers": 1, "experts": 1, "activation": "relu")", "activation"}}) {
    INFO(keys);
    CHECK(message_of(keys).find(cat("c.json: model.sparse_ffn.0.", place)) == 0);
  }
  CHECK(message_of(R"(, "sub_layers": 2, "experts": 4)").empty());
}
