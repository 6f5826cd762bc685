#include "train/trainer.h"

#include "comm/agree.h"
#include "comm/groups.h"
#include "core/fault.h"
#include "core/file.h"
#include "core/log.h"
#include "core/signals.h"
#include "ffn/registry.h"
#include "model/flops.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/run_lock.h"
#include "train/device_peaks.h"
#include "train/engine.h"
#include "train/evaluate.h"
#include "train/memory_check.h"
#include "train/resume_check.h"
#include "train/schedule.h"
#include "train/state.h"
#include "train/training_data.h"

#include <chrono>
#include <filesystem>
#include <optional>
#include <utility>

namespace sffn {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// " (layer 5: 12 scores of blocks are NaN)", or nothing.
std::string nan_scores(const Json& ffn) {
  std::string list;
  for (const Json::Member& layer : ffn.as_object()) {
    const Json* nans = layer.value.find("nan_scores");
    if (nans == nullptr) continue;
    list += cat(list.empty() ? " (" : "; ", "layer ", layer.key, ": ", static_cast<int64_t>(nans->as_double()),
                " scores of blocks are NaN");
  }
  return list.empty() ? list : list + ")";
}

class Run {
 public:
  Run(Config config, const TrainOptions& options, Communicator& world, DeviceRuntime& runtime, const Beat& beat)
      : config_(std::move(config)), options_(options), world_(world), runtime_(runtime), beat_(beat) {}

  RunEnd train();

 private:
  void open_data();
  void find_start();
  void build();
  void make_hooks();
  // What this rank was asked by signals, for the other ranks, and what any rank was asked.
  static Engine::Flags take_requests();
  void hear_requests(const StepNumbers& numbers);
  void start_step();
  void finish_step();
  bool at_stop(int64_t step) const;  // something is to be done between this step and the next
  void report(const StepNumbers& numbers, double step_ms);
  bool evaluate();  // false: ended early by a stop request
  void save(bool last);
  bool stop_asked();
  // The run begins at a checkpoint of another run, and holds none of its own so far.
  bool started_elsewhere() const {
    return resume_.checkpoint && resume_.checkpoint->step == step_ &&
           !exists(path("checkpoints/") + std::filesystem::path(resume_.checkpoint->folder).filename().string());
  }
  RunEnd run_steps();
  RunEnd end(std::string how, std::string cause);
  template <class F>
  void on_hooks(F&& call) {
    for (const auto& hook : hooks_) call(*hook);
  }
  std::string path(const std::string& name) const { return options_.run + "/" + name; }

  Config config_;
  const TrainOptions& options_;
  Communicator& world_;
  DeviceRuntime& runtime_;
  const Beat& beat_;
  std::optional<RankGroups> groups_;

  std::unique_ptr<BatchSource> data_;
  std::map<std::string, EvalSource> validation_;
  std::unique_ptr<RunLock> lock_;
  Resume resume_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<CheckpointWriter> writer_;
  std::vector<std::unique_ptr<Hook>> hooks_;
  double train_flops_per_token_ = 0;
  int64_t step_ = 0;     // updates done
  int64_t started_ = 0;  // updates that the device was given
  Clock::time_point finished_at_;
  int stop_signal_ = 0;
  bool save_asked_ = false;
};

void Run::open_data() {
  beat_({.phase = "data open"});
  fault_point("data_open", -1);
  together(world_, [&] {
    data_ = std::make_unique<BatchSource>(open_training_data(config_));
    if (config_.model.vocab_size == 0) config_.model.vocab_size = data_->vocab_size();
    validation_ = open_validation_data(config_);
    for (const auto& [name, source] : validation_) check_same_tokenizer(data_->corpora().front(), source.corpus());
  });
}

void Run::find_start() {
  beat_({.phase = "load"});
  lock_ = std::make_unique<RunLock>(world_, options_.run);
  ReadOptions read;
  read.verify = options_.verify;
  int64_t blocks = 0;
  read.progress = [&] { beat_({.phase = "load", .item = ++blocks}); };
  resume_ = choose_resume(world_, options_.run, options_.resume, read);
  if (resume_.checkpoint) {
    together(world_, [&] {
      check_resume(world_, config_, data_->fingerprint(), *resume_.checkpoint);
      require_tokenizer(resume_.checkpoint->trainer, data_->corpora().front());
    });
  }
  step_ = resume_.checkpoint ? resume_.checkpoint->step : 0;
}

void Run::build() {
  Measurement plan;
  together(world_, [&] { plan = measure_for(runtime_, config_, world_.rank(), world_.size()); });
  groups_.emplace(world_, config_.parallel.expert);
  const Parallel parallel = parallel_of(world_, *groups_);
  together(world_, [&] { engine_ = std::make_unique<Engine>(config_, parallel, runtime_, plan.arenas); });
  const FlopCount flops = count_flops(config_.model);
  train_flops_per_token_ = flops.train_per_token;
  log::info("model: ", count_parameters(config_.model).total, " parameters, ",
            static_cast<int64_t>(flops.train_per_token), " FLOPs a token in training");
  std::string rows;
  for (const auto& [name, bytes] : engine_->memory()) rows += cat(rows.empty() ? "" : ", ", name, " ", bytes);
  log::info("memory of rank 0, bytes: ", rows, "; total ", engine_->memory_bytes());

  if (resume_.checkpoint) {
    StatePieces state = state_pieces(*engine_, StateShare::kHeld);
    ReadOptions read;
    read.verify = false;  // done when it was chosen
    read.progress = [this, blocks = int64_t{0}]() mutable { beat_({.phase = "load", .item = ++blocks}); };
    resume_from(world_, *resume_.checkpoint, state.parameters, state.moments, read);
    state.host.store();
    check_fingerprints(world_, *engine_, *resume_.checkpoint);
    engine_->publish_values();
  } else {
    together(world_, [&] { engine_->initialise([&] { return training_token_counts(config_); }); });
  }
}

void Run::make_hooks() {
  together(world_, [&] {
    if (world_.rank() != 0) return;
    write_file_atomically(path("config.json"), resolved_json(config_).dump(2) + "\n");
    trim_metrics(path("metrics.jsonl"), step_);
    hooks_.push_back(make_console_hook(config_.log.every));
    hooks_.push_back(make_metrics_hook(path("metrics.jsonl"), config_.log.every));
    if (config_.log.block_load) {
      trim_metrics(path("block_load.jsonl"), step_);
      hooks_.push_back(make_block_load_hook(path("block_load.jsonl"), config_.log.every));
    }
    if (config_.log.tensorboard) hooks_.push_back(make_tensorboard_hook(path("tensorboard"), config_.log.every));
  });
}

void Run::report(const StepNumbers& numbers, double step_ms) {
  StepReport r;
  r.step = step_;
  r.steps = config_.train.steps;
  r.tokens = step_ * config_.train.tokens_per_step;
  r.loss = numbers.loss;
  r.learning_rate = learning_rate(config_.optimizer, config_.train.steps, step_);
  r.gradient_norm = numbers.gradient_norm;
  r.step_ms = step_ms;
  r.tokens_per_second = static_cast<double>(config_.train.tokens_per_step) / step_ms * 1e3;
  r.model_tflops = train_flops_per_token_ * r.tokens_per_second * 1e-12;
  if (const DevicePeaks* peaks = find_card(runtime_.name())) {
    const bool bf16 = config_.train.precision == Precision::kBf16;
    r.mfu = r.model_tflops * 1e12 / (peaks->flops(bf16) * world_.size());
  }
  r.exposed_communication_ms = numbers.communication_ms;
  r.memory_bytes = static_cast<int64_t>(engine_->memory_bytes());
  r.ffn = numbers.ffn;
  r.block_load = numbers.block_load;
  if (config_.log.state_hash) r.state_hash = engine_->state_hash();
  on_hooks([&](Hook& hook) { hook.after_step(r); });
}

Engine::Flags Run::take_requests() {
  static_assert(signals::kStopSignals.size() < Engine::kFlags);
  Engine::Flags flags{};
  flags[0] = signals::take_save_request() ? 1 : 0;
  for (size_t i = 0; i < signals::kStopSignals.size(); ++i) {
    flags[1 + i] = signals::stop_signal() == signals::kStopSignals[i] ? 1 : 0;
  }
  return flags;
}

void Run::hear_requests(const StepNumbers& numbers) {
  save_asked_ |= numbers.flags[0] > 0;
  for (size_t i = 0; i < signals::kStopSignals.size(); ++i) {
    if (numbers.flags[1 + i] > 0) stop_signal_ = signals::kStopSignals[i];
  }
}

void Run::start_step() {
  if (started_ == step_) finished_at_ = Clock::now();  // else the device has been at work since the last one
  const int64_t step = started_ + 1;
  int64_t item = 0;
  const auto batch_of = [&](int64_t first, int64_t count) { return data_->sequences(step - 1, first, count); };
  const auto progress = [&](std::string_view phase) {
    beat_({step, phase, ++item, engine_->waits_in(phase)});
    fault_point(phase, step);
  };
  engine_->start(step, batch_of, learning_rate(config_.optimizer, config_.train.steps, step), take_requests(),
                 progress);
  started_ = step;
}

void Run::finish_step() {
  const int64_t step = step_ + 1;
  beat_({step, "finish", 0, true});
  const StepNumbers numbers = engine_->finish();
  if (!numbers.finite) {
    throw AgreedError(ExitCode::kRunFailed,
                      cat("step ", step, ": the loss is ", numbers.loss, " and the gradient norm ",
                          numbers.gradient_norm, nan_scores(numbers.ffn), "; the weights are those of step ", step_,
                          ": resume with a lower learning rate or other data"));
  }
  step_ = step;
  const double step_ms = milliseconds_since(finished_at_);
  finished_at_ = Clock::now();
  hear_requests(numbers);
  report(numbers, step_ms);
}

bool Run::at_stop(int64_t step) const {
  const auto due = [&](int64_t every) { return every > 0 && step % every == 0; };
  return step == config_.train.steps || due(config_.evaluation.every) || due(config_.checkpoint.every) ||
         config_.log.state_hash || stop_signal_ != 0 || save_asked_;
}

bool Run::stop_asked() {
  beat_({step_, "stop vote", 0, true});
  stop_signal_ = world_.max_value(signals::stop_signal());
  return stop_signal_ != 0;
}

bool Run::evaluate() {
  EvaluationReport report;
  report.step = step_;
  int64_t batches = 0;
  for (const auto& [name, source] : validation_) {
    const auto progress = [&](int64_t done, int64_t) {  // a vote of all ranks follows
      beat_({step_, "evaluation", done, true});
      fault_point("evaluation", step_);
      return !signals::stop_requested();
    };
    const auto token_nll = [&](const Batch& batch) {
      beat_({step_, "evaluation", ++batches});
      std::vector<float> nll = engine_->evaluate(batch);
      beat_({step_, "evaluation", batches, true});
      return nll;
    };
    EvaluationResult result;
    if (!evaluate_set(source, config_.train.micro_batch, world_, token_nll, progress, result,
                      config_.parallel.expert > 1)) {
      return false;
    }
    report.sets[name] = result;
  }
  if (!report.sets.empty()) on_hooks([&](Hook& hook) { hook.after_evaluation(report); });
  return true;
}

void Run::save(bool last) {
  if (writer_->newest() == step_ && !started_elsewhere()) return;
  beat_({step_, "save"});
  StatePieces state = state_pieces(*engine_, StateShare::kOwned);
  state.host.fetch();
  CheckpointContents contents;
  contents.parameters = std::move(state.parameters);
  contents.moments = std::move(state.moments);
  contents.config = resolved_json(config_);
  contents.trainer["tokens"] = step_ * config_.train.tokens_per_step;
  contents.trainer["samples"] = step_ * config_.sequences_per_step();
  contents.trainer["seed"] = static_cast<int64_t>(config_.train.seed);
  contents.trainer["schedule_steps"] = config_.train.steps;
  contents.trainer["dataset"] = data_->fingerprint().hex();
  contents.trainer["tokenizer"] = tokenizer_record(*data_);
  contents.trainer["fingerprints"] = to_json(engine_->fingerprints());
  (void)writer_->save(step_, contents, last);  // a failure that may pass is logged, counted and retried there
}

RunEnd Run::end(std::string how, std::string cause) {
  RunEnd end{step_, std::move(how), std::move(cause), writer_ ? writer_->newest().value_or(-1) : -1};
  on_hooks([&](Hook& hook) { hook.after_run(end); });
  return end;
}

RunEnd Run::run_steps() {
  const auto due = [&](int64_t every) { return every > 0 && step_ % every == 0; };
  const auto stop = [&] {
    log::info("signal ", signals::name(stop_signal_), ": saving");
    save(true);
    return end("signal", signals::name(stop_signal_));
  };
  if (step_ == 0 || started_elsewhere()) save(false);
  if (step_ == config_.train.steps) log::info("all ", step_, " steps were done before");
  started_ = step_;
  while (step_ < config_.train.steps) {
    start_step();
    while (started_ > step_ && (at_stop(started_) || started_ - step_ == engine_->depth())) finish_step();
    if (started_ > step_ || !at_stop(step_)) continue;
    if (stop_signal_ != 0) return stop();
    const bool last = step_ == config_.train.steps;
    if ((last || due(config_.evaluation.every)) && !evaluate() && stop_asked()) return stop();
    const bool asked = std::exchange(save_asked_, false);
    if (last || asked || due(config_.checkpoint.every)) save(last);
    if (stop_asked()) return stop();
  }
  return end("done", "");
}

RunEnd Run::train() {
  open_data();
  find_start();
  if (world_.rank() == 0) log::also_to_file(path("log.txt"));
  log::info("configuration: ", resolved_json(config_).dump(2));
  build();
  CheckpointWriterOptions options;
  options.keep = config_.checkpoint.keep;
  options.keep_every = config_.checkpoint.keep_every;
  options.failure_limit = static_cast<int>(config_.checkpoint.max_failures);
  options.progress = [this, blocks = int64_t{0}]() mutable { beat_({step_, "save", ++blocks}); };
  writer_ = std::make_unique<CheckpointWriter>(world_, options_.run, options, resume_);
  make_hooks();  // after the old metrics of a run that starts anew were moved
  try {
    return run_steps();
  } catch (const Error& e) {
    end("failed", e.what());
    throw;
  }
}

}  // namespace

RunEnd train(Config config, const TrainOptions& options, Communicator& world, DeviceRuntime& runtime,
             const Beat& beat) {
  return Run(std::move(config), options, world, runtime, beat).train();
}

}  // namespace sffn
