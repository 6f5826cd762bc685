// The block product where blocks are spread over ranks, on whole numbers small enough that every sum is exact in single
// precision, in any order.
#include "comm/threads.h"
#include "core/random.h"
#include "ffn/expert_compute.h"
#include "ffn/registry.h"
#include "nn/host_values.h"
#include "support/catch.h"

#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

using namespace sffn;

namespace {

constexpr int64_t kTokens = 24, kWidth = 8, kCells = 64, kPerToken = 3;  // tokens of all ranks together

// Element i of what is called so: in [-range, range].
double whole_number(const std::string& name, int64_t i, int64_t range) {
  const double uniform = random_uniform(random_key(3, name), static_cast<uint64_t>(i));
  return static_cast<double>(static_cast<int64_t>(uniform * static_cast<double>(2 * range + 1)) - range);
}

using Values = std::map<std::string, std::vector<double>>;

// What one rank has, and what it makes of it.
class Rank {
 public:
  Rank(Communicator& ranks, const BlockShape& shape, ExpertForm form, Dispatch dispatch)
      : expert_(ranks),
        shape_(shape),
        share_{.rank = ranks.rank(), .ranks = ranks.size(), .chunk = 5, .dispatch = dispatch},
        form_(form) {
    ModelConfig model;
    model.d_model = kWidth;
    tables_ = BlockStore::add({.params = params_, .model = model, .share = share_, .blocks = &blocks_}, shape);
    for (ParamStore* store : {&params_, &blocks_}) {
      store->allocate(cpu_runtime(), DType::kF32);
      gradients_.emplace_back(cpu_runtime(), Shape{store->flat_size()}, DType::kF32);
      store->use_gradients(gradients_.back().tensor({store->flat_size()}, DType::kF32));
      for (const Param& param : store->all()) fill(param.value, param.spec.name, param.spec.runs()[0].first, 2);
    }
  }

  // This rank's part of each result goes to its place in those of all ranks; gradients of what every rank has add up.
  void run(Values& all, std::mutex& guard) {
    const int64_t n = kTokens / share_.ranks, first = share_.rank * n, D = kWidth;
    const Tensor x = tensor({n, D}), dy = tensor({n, D}), y = tensor({n, D}), dx = tensor({n, D});
    const Tensor dweights = tensor({n, kPerToken});
    fill(x, "x", first * D, 2);
    fill(dy, "dy", first * D, 1);
    const Selection chosen = choose(first, n);
    Context ctx{.stream = stream_, .saved = saved_, .scratch = scratch_, .parallel = {.expert = &expert_}};
    scratch_.poison();
    const ExpertCompute compute(shape_, tables_, plan_experts(shape_, form_, false, DType::kF32), true);
    ExpertCompute::Saved saved;
    compute.forward(ctx, y, x, chosen, saved);
    scratch_.poison();
    spoil(dx);
    compute.backward(ctx, dx, dweights, dy, x, chosen, saved);

    const std::lock_guard<std::mutex> lock(guard);
    put(all["y"], y, first * D, kTokens * D);
    if (shape_.keys) put(all["dx"], dx, first * D, kTokens * D);
    put(all["dweights"], dweights, first * kPerToken, kTokens * kPerToken);
    for (const ParamStore* store : {&params_, &blocks_}) {
      for (const Param& param : store->all()) {
        put(all[param.spec.name], param.grad, param.spec.runs()[0].first, param.spec.shape.numel());
      }
    }
  }

 private:
  Tensor tensor(const Shape& shape, DType dtype = DType::kF32) {
    return memory_.emplace_back(cpu_runtime(), shape, dtype).tensor(shape, dtype);
  }
  static void fill(const Tensor& t, const std::string& name, int64_t first, int64_t range) {
    for (int64_t i = 0; i < t.numel(); ++i) {
      t.data<float>()[i] = static_cast<float>(whole_number(name, first + i, range));
    }
  }
  static void spoil(const Tensor& t) {
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = -99;  // to be overwritten
  }

  // Of tokens [first, first + n): every ninth token has a dropped choice, every seventh all in the last block.
  Selection choose(int64_t first, int64_t n) {
    const int64_t B = shape_.blocks();
    Selection chosen{.blocks = tensor({n, kPerToken}, DType::kI32), .kept = {}, .weights = tensor({n, kPerToken})};
    chosen.kept = chosen.blocks;
    for (int64_t i = 0; i < n * kPerToken; ++i) {
      const int64_t token = first + i / kPerToken, place = i % kPerToken, at = first * kPerToken + i;
      const bool dropped = token % 9 == 0 && place == 1;
      const int64_t block = (token + place) % B;
      chosen.kept.data<int32_t>()[i] = static_cast<int32_t>(dropped ? -1 : block);
      chosen.weights.data<float>()[i] = dropped ? 0 : static_cast<float>(whole_number("weight", at, 2));
    }
    return chosen;
  }

  // Adds to what is there.
  static void put(std::vector<double>& all, const Tensor& part, int64_t first, int64_t count) {
    all.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < part.numel() && first + i < count; ++i) {
      all[static_cast<size_t>(first + i)] += static_cast<double>(part.data<float>()[i]);
    }
  }

  Communicator& expert_;
  const BlockShape shape_;
  const ExpertShare share_;
  const ExpertForm form_;
  ParamStore params_, blocks_;
  BlockStore tables_;
  std::deque<Buffer> memory_, gradients_;
  Stream stream_{cpu_runtime()};
  Arena saved_{cpu_runtime(), "saved", 1 << 20}, scratch_{cpu_runtime(), "scratch", 1 << 22};
};

Values values_on(int ranks, const BlockShape& shape, ExpertForm form, Dispatch dispatch = Dispatch::kGather) {
  Values all;
  std::mutex guard;
  run_threads(ranks, [&](Communicator& comm) { Rank(comm, shape, form, dispatch).run(all, guard); });
  return all;
}

}  // namespace

// Kills: a product, or a sum over ranks, that is wrong by less than rounding hides; a bias of values added once a rank;
// cells of a chunk, of a block or of a gate that belong to another one.
TEST_CASE("on whole numbers blocks spread over ranks give the bits of one rank, for blocks of three sizes",
          "[expert]") {
  const std::vector<std::pair<const char*, BlockShape>> kinds = {
      {"keys, values and biases", {.activation = Activation::kRelu}},
      {"gated", {.activation = Activation::kRelu, .gated = true, .bias = false}},
      {"values alone", {.keys = false, .bias = false}}};
  for (const auto& [kind, like] : kinds) {
    for (const int64_t size : {1, 4, 16}) {
      if (!like.keys && size > 1) continue;
      BlockShape shape = like;
      shape.cells = kCells;
      shape.block_size = size;
      shape.per_token = kPerToken;
      for (const ExpertForm form : {ExpertForm::kGrouped, ExpertForm::kMasked}) {
        if (!like.keys && form == ExpertForm::kMasked) continue;
        INFO(kind << ", blocks of " << size << (form == ExpertForm::kGrouped ? ", grouped" : ", masked"));
        const Values one = values_on(1, shape, form);
        CHECK(one.at("y") != std::vector<double>(one.at("y").size(), 0.0));
        for (const Dispatch dispatch : {Dispatch::kGather, Dispatch::kAllToAll}) {
          for (const int ranks : {2, 4}) {
            INFO(ranks << (dispatch == Dispatch::kGather ? " ranks, gather" : " ranks, all_to_all"));
            CHECK(values_on(ranks, shape, form, dispatch) == one);
          }
        }
      }
    }
  }
}
