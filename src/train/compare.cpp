#include "train/compare.h"

#include "comm/communicator.h"
#include "kernels/ops.h"
#include "model/memory_plan.h"
#include "model/transformer.h"
#include "nn/host_values.h"
#include "train/memory_check.h"
#include "train/optimizer.h"
#include "train/random_batch.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <memory>
#include <utility>

namespace sffn {
namespace {

double tolerance_of(const Config& config) { return config.dtype() == DType::kBF16 ? 5e-2 : 1e-4; }

struct Made {
  std::string name;
  std::vector<double> values;
  int64_t choices_per_token = 0;  // where the values are blocks
};
using MadeInOrder = std::vector<Made>;

// One micro-batch a step on one device.
class Side {
 public:
  Side(const Config& config, DeviceRuntime& runtime)
      : config_(config),
        plan_(measure_memory(config, config.train.micro_batch, config.model.context, runtime).train),
        stream_(runtime),
        model_(config),
        alone_(make_self_communicator()),
        saved_(runtime, "saved", plan_.saved),
        scratch_(runtime, "scratch", plan_.scratch) {
    model_.allocate(runtime);
    ParamStore& params = model_.params();
    const DType type = accumulate_type(params.dtype());
    gradients_ = Buffer(runtime, {params.flat_size()}, type);
    flat_ = gradients_.tensor({params.flat_size()}, type);
    params.use_gradients(flat_);
    numbers_memory_ = Buffer(runtime, {update::kCount}, DType::kF64);
    numbers_ = numbers_memory_.tensor({update::kCount}, DType::kF64);
    optimizer_ = std::make_unique<AdamW>(config.optimizer, params, FlatRange{0, params.flat_size()}, runtime);
    model_.initialise(stream_, config.train.seed, [&] { return random_token_counts(config); });
    optimizer_->adopt_values(stream_);
  }

  // Everything a forward and backward pass makes, by name, in order.
  MadeInOrder pass(int64_t step, const Batch& batch) {
    ops::fill_zero(stream_, flat_);
    saved_.reset();
    Context ctx{stream_, saved_, scratch_, {alone_.get(), alone_.get(), alone_.get()}, config_.train.seed,
                step,    0,      true};
    Inspection seen;
    seen.logits = seen.hidden = true;
    const double scale = 1.0 / static_cast<double>(batch.batch * batch.time);
    const LossSum loss = model_.forward_backward(ctx, batch, scale, &seen);
    MadeInOrder made;
    for (size_t i = 0; i < seen.hidden_out.size(); ++i) {
      for (const ChoiceRecord& record : seen.choices) {
        if (record.layer != static_cast<int64_t>(i)) continue;
        made.push_back({cat("layers.", record.layer, ".ffn.blocks"),
                        {record.blocks.begin(), record.blocks.end()},
                        record.per_token});
      }
      made.push_back({cat("hidden.", i), std::move(seen.hidden_out[i])});
    }
    made.push_back({"logits", std::move(seen.logits_out)});
    made.push_back({"loss", {loss.nll * scale + loss.extra_loss}});
    for (auto param = model_.params().all().rbegin(); param != model_.params().all().rend(); ++param) {
      made.push_back({"grad." + param->spec.name, read_values(stream_, param->grad)});
    }
    return made;
  }

  // The weights after the update of a step, added to what it made.
  void update(int64_t step, MadeInOrder& made) {
    std::vector<double> numbers(update::kCount, 1);
    numbers[update::kLearningRate] = config_.optimizer.lr;
    numbers[update::kStep] = static_cast<double>(step);
    write_values(stream_, numbers_, numbers);
    optimizer_->update(stream_, flat_, numbers_);
    for (const Param& param : model_.params().all()) {
      made.push_back({param.spec.name, read_values(stream_, param.value)});
    }
  }

  void take_gradients(Side& other) { write_values(stream_, flat_, read_values(other.stream_, other.flat_)); }

  // Weights and moments of `other`, through the host.
  void take_state(Side& other) {
    for (size_t i = 0; i < optimizer_->pieces().size(); ++i) {
      const AdamW::Piece &mine = optimizer_->pieces()[i], &theirs = other.optimizer_->pieces()[i];
      for (const Tensor AdamW::Piece::*state : {&AdamW::Piece::master, &AdamW::Piece::m, &AdamW::Piece::v}) {
        write_values(stream_, mine.*state, read_values(other.stream_, theirs.*state));
      }
      if (mine.rounded.defined()) ops::copy(stream_, mine.rounded, mine.master);
    }
  }

 private:
  const Config& config_;
  PassPlan plan_;
  Stream stream_;
  Transformer model_;
  std::unique_ptr<Communicator> alone_;
  Arena saved_, scratch_;
  Buffer gradients_;
  Tensor flat_;
  Buffer numbers_memory_;
  Tensor numbers_;  // of the update; nothing is clipped
  std::unique_ptr<AdamW> optimizer_;
};

// The fraction of the choices in a that b did not make for the same token.
double choices_not_shared(const Made& a, const Made& b) {
  const auto per_token = static_cast<std::ptrdiff_t>(a.choices_per_token);
  std::vector<double> of_a = a.values, of_b = b.values, lost;
  for (auto x = of_a.begin(), y = of_b.begin(); x != of_a.end(); x += per_token, y += per_token) {
    std::sort(x, x + per_token);
    std::sort(y, y + per_token);
    std::set_difference(x, x + per_token, y, y + per_token, std::back_inserter(lost));
  }
  return of_a.empty() ? 0 : static_cast<double>(lost.size()) / static_cast<double>(of_a.size());
}

double error_between(const Made& a, const Made& b) {
  if (a.choices_per_token > 0) return choices_not_shared(a, b);
  double norm = 0, distance = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    norm += a.values[i] * a.values[i];
    distance += (a.values[i] - b.values[i]) * (a.values[i] - b.values[i]);
  }
  return norm > 0 ? std::sqrt(distance / norm) : std::sqrt(distance);
}

}  // namespace

void compare_devices(const Config& config, DeviceRuntime& first, DeviceRuntime& second, int64_t steps,
                     const std::function<bool(const ComparedStep&)>& report) {
  Config alone = config;
  alone.parallel.expert = 1;
  alone.train.tokens_per_step = config.train.micro_batch * config.model.context;
  for (DeviceRuntime* runtime : {&first, &second}) measure_for(*runtime, alone, 0, 1);
  Side a(config, first), b(config, second);
  for (int64_t step = 1; step <= steps; ++step) {
    const Batch batch = random_batch(config, step, 0, config.train.micro_batch);
    MadeInOrder of_a = a.pass(step, batch), of_b = b.pass(step, batch);
    b.take_gradients(a);
    a.update(step, of_a);
    b.update(step, of_b);
    ComparedStep compared{step, {}};
    const double tolerance = tolerance_of(config);
    double other_choices = 0;  // of the layer with the most
    for (size_t i = 0; i < of_a.size(); ++i) {
      const double error = error_between(of_a[i], of_b[i]);
      if (of_a[i].choices_per_token > 0) {
        compared.tensors.push_back({of_a[i].name, error, tolerance});
        if (error <= tolerance) other_choices = std::max(other_choices, error);
      } else {
        compared.tensors.push_back({of_a[i].name, error, tolerance + std::sqrt(2 * other_choices)});
      }
    }
    if (!report(compared)) return;
    b.take_state(a);
  }
}

}  // namespace sffn
