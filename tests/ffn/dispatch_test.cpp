// Tokens go to the ranks of their blocks and come back, every one in its place. All values are whole numbers made from
// the token's index over all ranks, so that sums are exact and a row that went astray shows.
#include "ffn/dispatch.h"

#include "comm/threads.h"
#include "kernels/ops.h"
#include "support/catch.h"
#include "support/counting_communicator.h"
#include "support/late_communicator.h"

#include <cmath>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <vector>

using namespace sffn;

namespace {

constexpr int64_t kTokens = 11, kWidth = 3, kOut = 2, kPerToken = 3, kBlocksOfRank = 2;

// Which blocks the token of this index over all ranks chooses; -1: dropped.
using Choice = std::function<std::vector<int32_t>(int64_t token, int64_t blocks)>;

struct Pattern {
  const char* name;
  Choice choice;
};
const Pattern kPatterns[] = {
    {"spread out",
     [](int64_t t, int64_t B) {
       return std::vector<int32_t>{static_cast<int32_t>(t % B), static_cast<int32_t>((5 * t + 1) % B),
                                   static_cast<int32_t>((t / 2 + 3) % B)};
     }},
    {"every choice in one block",
     [](int64_t, int64_t B) { return std::vector<int32_t>(3, static_cast<int32_t>(B - 1)); }},
    {"rank 0 chooses nothing",
     [](int64_t t, int64_t B) { return std::vector<int32_t>(3, t < kTokens ? -1 : static_cast<int32_t>(t % B)); }},
    {"nothing is chosen", [](int64_t, int64_t) { return std::vector<int32_t>(3, -1); }},
    {"some choices dropped", [](int64_t t, int64_t B) {
       return std::vector<int32_t>{static_cast<int32_t>(t % B), -1, static_cast<int32_t>((t + 1) % B)};
     }}};

double x_of(int64_t token, int64_t j) { return static_cast<double>(100 * token + j); }
double dy_of(int64_t token, int64_t j) { return static_cast<double>(token % 7 + j); }
double weight_of(int64_t token, int64_t i) { return static_cast<double>((token + i) % 5 + 1); }
// What block `block` makes of a token: y[j] = a·(block + 1)·(x[0] + x[1] + x[2]) for every j.
double factor_of(int64_t block) { return static_cast<double>(block + 1); }

using Copied = test::LateCommunicator::Copied;

// One rank of the layer.
class Rank {
 public:
  Rank(Communicator& ranks, const Pattern& pattern, Dispatch dispatch, Copied copied)
      : late_(ranks, copied),
        expert_(late_),
        pattern_(pattern),
        share_{.rank = ranks.rank(), .ranks = ranks.size(), .chunk = 4, .dispatch = dispatch},
        blocks_(kBlocksOfRank * ranks.size()),
        dispatcher_(share_, kBlocksOfRank) {
    chosen_.blocks = chosen_.kept = tensor({kTokens, kPerToken}, DType::kI32);
    chosen_.weights = tensor({kTokens, kPerToken}, DType::kF32);
    x_ = tensor({kTokens, kWidth}, DType::kF32);
    dy_ = tensor({kTokens, kOut}, DType::kF32);
    for (int64_t n = 0; n < kTokens; ++n) {
      const std::vector<int32_t> blocks = pattern.choice(token(n), blocks_);
      for (int64_t i = 0; i < kPerToken; ++i) {
        chosen_.kept.data<int32_t>()[n * kPerToken + i] = blocks[static_cast<size_t>(i)];
        chosen_.weights.data<float>()[n * kPerToken + i] = static_cast<float>(weight_of(token(n), i));
      }
      for (int64_t j = 0; j < kWidth; ++j) x_.data<float>()[n * kWidth + j] = static_cast<float>(x_of(token(n), j));
      for (int64_t j = 0; j < kOut; ++j) dy_.data<float>()[n * kOut + j] = static_cast<float>(dy_of(token(n), j));
    }
  }

  // What did not hold, in words.
  const std::set<std::string>& problems() const { return problems_; }

  void check_forward() {
    const Tensor y = tensor({kTokens, kOut}, DType::kF32), bias = tensor({kOut}, DType::kF32);
    bias.data<float>()[0] = 3;
    bias.data<float>()[1] = 4;
    Context ctx = context();
    std::multiset<int64_t> arrived;
    std::vector<int64_t> under_way;
    dispatcher_.forward(ctx, y, bias, x_, chosen_, [&](Tensor y_here, const TokenDispatcher::Arrived& here) {
      under_way.push_back(late_.under_way());
      for (int64_t n = 0; n < y_here.rows(); ++n) {
        const int64_t t = check_arrival(here, n);
        arrived.insert(t);
        for (int64_t j = 0; j < kOut; ++j) y_here.data<float>()[n * kOut + j] = static_cast<float>(product(here, n));
      }
    });
    check_who_arrived(arrived);
    // Tokens, choices and weights of the next chunk; results of the one before.
    expect(under_way == std::vector<int64_t>{3, 3 + 1, 1}, "under_way == std::vector<int64_t>{3, 3 + 1, 1}");
    expect(late_.under_way() == 0, "late_.under_way() == 0");
    for (int64_t n = 0; n < kTokens; ++n) {
      for (int64_t j = 0; j < kOut; ++j) {
        expect(y.data<float>()[n * kOut + j] == expected_product(token(n)) + 3 + static_cast<double>(j),
               "y.data<float>()[n * kOut + j] == expected_product(token(n)) + 3 + static_cast<double>(j)");
      }
    }
    expect(expert_.traffic.total_bytes() == expected_bytes(kWidth + 2 * kPerToken, kOut),
           "expert_.traffic.total_bytes() == expected_bytes(kWidth + 2 * kPerToken, kOut)");
  }

  void check_backward() {
    const Tensor dx = tensor({kTokens, kWidth}, DType::kF32), dweights = tensor({kTokens, kPerToken}, DType::kF32);
    Context ctx = context();
    expert_.traffic = {};
    dispatcher_.backward(
        ctx, dx, dweights, dy_, x_, chosen_,
        [&](Tensor dx_here, Tensor dweights_here, const Tensor& dy_here, const TokenDispatcher::Arrived& here) {
          for (int64_t n = 0; n < dx_here.rows(); ++n) {
            const int64_t t = check_arrival(here, n);
            expect(dy_here.data<float>()[n * kOut] == dy_of(t, 0), "dy_here.data<float>()[n * kOut] == dy_of(t, 0)");
            fill_gradients(dx_here, dweights_here, here, n, t);
          }
        });
    for (int64_t n = 0; n < kTokens; ++n) {
      const int64_t t = token(n);
      const std::vector<int32_t> blocks = pattern_.choice(t, blocks_);
      double sum = 0;
      for (int64_t i = 0; i < kPerToken; ++i) {
        const int32_t block = blocks[static_cast<size_t>(i)];
        const double expected = block < 0 ? 0 : factor_of(block) * dy_of(t, 0);
        expect(dweights.data<float>()[n * kPerToken + i] == expected,
               "dweights.data<float>()[n * kPerToken + i] == expected");
        sum += weight_of(t, i) * expected;
      }
      for (int64_t j = 0; j < kWidth; ++j)
        expect(dx.data<float>()[n * kWidth + j] == sum, "dx.data<float>()[n * kWidth + j] == sum");
    }
    expect(expert_.traffic.total_bytes() == expected_bytes(kWidth + kOut + 2 * kPerToken, kWidth + kPerToken),
           "expert_.traffic.total_bytes() == expected_bytes(kWidth + kOut + 2 * kPerToken, kWidth + kPerToken)");
  }

  // Every rank makes rank + 1 of a token; columns, as many a rank, come back as they went.
  void check_all_blocks() {
    const int64_t R = share_.ranks, C = 2 * R;
    const Tensor y = tensor({kTokens, kOut}, DType::kF32), bias = tensor({kOut}, DType::kF32);
    const Tensor columns = tensor({kTokens, C}, DType::kF32), returned = tensor({kTokens, C}, DType::kF32);
    for (int64_t j = 0; j < kOut; ++j) bias.data<float>()[j] = 3;
    for (int64_t i = 0; i < kTokens * C; ++i) columns.data<float>()[i] = static_cast<float>(token(0) * C + i);
    Context ctx = context();
    expert_.traffic = {};
    std::multiset<int64_t> arrived, expected;
    std::vector<int64_t> under_way;
    use_all_blocks(ctx, share_, {x_, Tensor(), columns},
                   {{.out = y, .bias = bias, .what = "y"}, {.out = returned, .bias = {}, .what = "columns"}},
                   [&](std::span<const Tensor> results, std::span<const Tensor> here) {
                     under_way.push_back(late_.under_way());
                     expect(!here[1].defined(), "what is absent does not travel");
                     for (int64_t n = 0; n < here[0].rows(); ++n) {
                       arrived.insert(static_cast<int64_t>(here[0].data<float>()[n * kWidth]) / 100);
                       for (int64_t j = 0; j < kOut; ++j) {
                         results[0].data<float>()[n * kOut + j] =
                             static_cast<float>(share_.rank + 1) * here[0].data<float>()[n * kWidth + j];
                       }
                     }
                     const Tensor own = own_columns(ctx, share_, here[2]);
                     fill_own_columns(ctx, share_, results[1],
                                      [&](const Tensor& place) { ops::copy(ctx.stream, place, own); });
                   });
    for (int64_t t = 0; t < R * kTokens; ++t) expected.insert(t);
    expect(arrived == expected, "every token comes once");
    expect(under_way == std::vector<int64_t>{2, 2 + 2, 2}, "a chunk is on its way while another is worked on");
    for (int64_t n = 0; n < kTokens; ++n) {
      for (int64_t j = 0; j < kOut; ++j) {
        expect(y.data<float>()[n * kOut + j] == static_cast<double>(R * (R + 1) / 2) * x_of(token(n), j) + 3,
               "what all ranks made, and the bias once");
      }
    }
    for (int64_t i = 0; i < kTokens * C; ++i) {
      expect(returned.data<float>()[i] == columns.data<float>()[i], "columns come back in their places");
    }
    expect(expert_.traffic.total_bytes() == static_cast<double>(4 * (R - 1) * kTokens * (kWidth + kOut + 2 * C)),
           "bytes of tokens and results alone");
  }

 private:
  void expect(bool holds, const char* what) const {  // assertions of the test framework are for one thread
    if (!holds) problems_.insert(cat("rank ", share_.rank, ": ", what));
  }
  int64_t token(int64_t n) const { return share_.rank * kTokens + n; }

  Tensor tensor(const Shape& shape, DType dtype) {
    return memory_.emplace_back(cpu_runtime(), shape, dtype).tensor(shape, dtype);
  }
  Context context() {
    saved_.poison();
    scratch_.poison();
    return {.stream = stream_, .saved = saved_, .scratch = scratch_, .parallel = {.expert = &expert_}};
  }

  // The token of row n, whose parts are all its own.
  int64_t check_arrival(const TokenDispatcher::Arrived& here, int64_t n) const {
    const auto t = static_cast<int64_t>(here.x.data<float>()[n * kWidth]) / 100;
    expect(here.x.data<float>()[n * kWidth + 2] == x_of(t, 2), "here.x.data<float>()[n * kWidth + 2] == x_of(t, 2)");
    const std::vector<int32_t> blocks = pattern_.choice(t, blocks_);
    for (int64_t i = 0; i < kPerToken; ++i) {
      const int64_t local = blocks[static_cast<size_t>(i)] - share_.rank * kBlocksOfRank;
      const bool mine = blocks[static_cast<size_t>(i)] >= 0 && local >= 0 && local < kBlocksOfRank;
      expect(here.chosen.kept.data<int32_t>()[n * kPerToken + i] == (mine ? local : -1),
             "here.chosen.kept.data<int32_t>()[n * kPerToken + i] == (mine ? local : -1)");
      expect(here.chosen.weights.data<float>()[n * kPerToken + i] == weight_of(t, i),
             "here.chosen.weights.data<float>()[n * kPerToken + i] == weight_of(t, i)");
    }
    return t;
  }

  double product(const TokenDispatcher::Arrived& here, int64_t n) const {
    double sum = 0, x = 0;
    for (int64_t j = 0; j < kWidth; ++j) x += here.x.data<float>()[n * kWidth + j];
    for (int64_t i = 0; i < kPerToken; ++i) {
      const int32_t local = here.chosen.kept.data<int32_t>()[n * kPerToken + i];
      if (local < 0) continue;
      sum += here.chosen.weights.data<float>()[n * kPerToken + i] * factor_of(share_.rank * kBlocksOfRank + local) * x;
    }
    return sum;
  }

  double expected_product(int64_t t) const {
    const std::vector<int32_t> blocks = pattern_.choice(t, blocks_);
    double sum = 0;
    for (int64_t i = 0; i < kPerToken; ++i) {
      if (blocks[static_cast<size_t>(i)] < 0) continue;
      sum += weight_of(t, i) * factor_of(blocks[static_cast<size_t>(i)]) * (x_of(t, 0) + x_of(t, 1) + x_of(t, 2));
    }
    return sum;
  }

  void fill_gradients(Tensor dx, Tensor dweights, const TokenDispatcher::Arrived& here, int64_t n, int64_t t) const {
    double sum = 0;
    for (int64_t i = 0; i < kPerToken; ++i) {
      const int32_t local = here.chosen.kept.data<int32_t>()[n * kPerToken + i];
      const double dweight = local < 0 ? 0 : factor_of(share_.rank * kBlocksOfRank + local) * dy_of(t, 0);
      dweights.data<float>()[n * kPerToken + i] = static_cast<float>(dweight);
      sum += weight_of(t, i) * dweight;
    }
    for (int64_t j = 0; j < kWidth; ++j) dx.data<float>()[n * kWidth + j] = static_cast<float>(sum);
  }

  std::set<int64_t> ranks_of(int64_t t) const {
    std::set<int64_t> ranks;
    for (const int32_t block : pattern_.choice(t, blocks_)) {
      if (block >= 0) ranks.insert(block / kBlocksOfRank);
    }
    return ranks;
  }

  // gather: every token, once; all_to_all: those with a block here, once.
  void check_who_arrived(const std::multiset<int64_t>& arrived) const {
    std::multiset<int64_t> expected;
    for (int64_t t = 0; t < share_.ranks * kTokens; ++t) {
      if (share_.dispatch == Dispatch::kGather || ranks_of(t).contains(share_.rank)) expected.insert(t);
    }
    expect(arrived == expected, "arrived == expected");
  }

  // Own tokens go to every other rank, or to those of their blocks; what became of others' tokens goes back.
  double expected_bytes(int64_t floats_there, int64_t floats_back) const {
    int64_t there = 0, back = 0;
    for (int64_t t = 0; t < share_.ranks * kTokens; ++t) {
      const int64_t home = t / kTokens;
      for (int64_t r = 0; r < share_.ranks; ++r) {
        const bool travels = r != home && (share_.dispatch == Dispatch::kGather || ranks_of(t).contains(r));
        there += travels && home == share_.rank;
        back += travels && r == share_.rank;
      }
    }
    return 4.0 * static_cast<double>(there * floats_there + back * floats_back);
  }

  mutable std::set<std::string> problems_;
  test::LateCommunicator late_;
  test::CountingCommunicator expert_;
  const Pattern& pattern_;
  ExpertShare share_;
  int64_t blocks_;
  TokenDispatcher dispatcher_;
  std::deque<Buffer> memory_;
  Stream stream_{cpu_runtime()};
  Arena saved_{cpu_runtime(), "saved", 1 << 16}, scratch_{cpu_runtime(), "scratch", 1 << 20};
  Selection chosen_;
  Tensor x_, dy_;
};

}  // namespace

// Kills: a row sent twice or to the wrong rank, rows or lists of another chunk, a sum in the order of arrival, a bias
// added by every rank, a rank that skips a collective because nothing is for it; blocks that work while nothing is
// under way, rows read before they have come, memory or a route of a chunk that another one takes too early.
TEST_CASE("both dispatchers bring every token to its blocks once, bring its sums back, and send what was predicted",
          "[expert]") {
  for (const Dispatch dispatch : {Dispatch::kGather, Dispatch::kAllToAll}) {
    for (const Pattern& pattern : kPatterns) {
      for (const auto& [ranks, copied] : {std::pair{2, Copied::kAtOnce}, std::pair{2, Copied::kInTheEnd},
                                          std::pair{4, Copied::kInTheEnd}, std::pair{8, Copied::kInTheEnd}}) {
        INFO(pattern.name << " on " << ranks << " ranks, " << (dispatch == Dispatch::kGather ? "gather" : "all_to_all")
                          << (copied == Copied::kAtOnce ? ", rows copied at once" : ", rows copied in the end"));
        std::mutex guard;
        std::set<std::string> problems;
        run_threads(ranks, [&](Communicator& comm) {
          Rank rank(comm, pattern, dispatch, copied);
          rank.check_forward();
          rank.check_backward();
          const std::lock_guard<std::mutex> lock(guard);
          problems.insert(rank.problems().begin(), rank.problems().end());
        });
        CHECK(problems == std::set<std::string>{});
      }
    }
  }
}

// Kills: a list of choices that travels for nothing, a way by choices that nobody made, columns of another rank.
TEST_CASE("tokens that use all blocks go to every rank once, whatever the dispatcher, and send no choices",
          "[expert]") {
  for (const Dispatch dispatch : {Dispatch::kGather, Dispatch::kAllToAll}) {
    for (const int ranks : {2, 3, 8}) {
      INFO(ranks << " ranks, " << (dispatch == Dispatch::kGather ? "gather" : "all_to_all"));
      std::mutex guard;
      std::set<std::string> problems;
      run_threads(ranks, [&](Communicator& comm) {
        Rank rank(comm, kPatterns[0], dispatch, Copied::kInTheEnd);
        rank.check_all_blocks();
        const std::lock_guard<std::mutex> lock(guard);
        problems.insert(rank.problems().begin(), rank.problems().end());
      });
      CHECK(problems == std::set<std::string>{});
    }
  }
}

// Kills: a count of bytes that forgets a direction or counts a token's own rank.
TEST_CASE("predicted bytes of a token are those of its ranks, on average over uniform choices", "[expert]") {
  const DispatchVolume one = dispatch_volume(8, 1, TokenBytes::forward(1024, 1024, 1, false, 2));
  CHECK(one.gather == 7 * (2048 + 2048 + 4));
  CHECK(one.all_to_all == Approx(7.0 / 8 * (2048 + 2048 + 4)));
  CHECK(one.naive == Approx(one.all_to_all));
  const DispatchVolume many = dispatch_volume(8, 64, TokenBytes::forward(1024, 1024, 64, true, 2));
  CHECK(many.all_to_all == Approx((1 - std::pow(7.0 / 8, 64)) * many.gather));
  CHECK(many.naive > 7 * many.gather);
  const DispatchVolume back = dispatch_volume(8, 64, TokenBytes::backward(1024, 512, 64, true, 2));
  CHECK(back.gather == 7 * (2048 + 1024 + 64 * 8 + 2048 + 64 * 4));
  CHECK(choose_dispatch(Dispatch::kAuto, one, false) == Dispatch::kAllToAll);
  CHECK(choose_dispatch(Dispatch::kAuto, one, true) == Dispatch::kGather);
  CHECK(choose_dispatch(Dispatch::kAuto, many, false) == Dispatch::kGather);
  CHECK(choose_dispatch(Dispatch::kAllToAll, many, true) == Dispatch::kAllToAll);
}
