#include "train/probe.h"

#include "core/file.h"
#include "core/safetensors.h"
#include "ffn/registry.h"
#include "model/memory_plan.h"
#include "model/transformer.h"
#include "nn/host_values.h"
#include "train/checkpoint/names.h"
#include "train/engine.h"
#include "train/memory_check.h"
#include "train/state.h"
#include "train/training_data.h"

#include <algorithm>
#include <deque>
#include <filesystem>

namespace sffn {
namespace {

Batch read_rows(const ProbeOptions& options, const ModelConfig& model) {
  const File file = File::open(options.tokens, File::Mode::kRead, ExitCode::kUsage);
  const int64_t ids = static_cast<int64_t>(file.size() / 4), width = ids / options.batch;
  if (file.size() % 4 != 0 || ids % options.batch != 0 || width < 2 || width - 1 > model.context) {
    throw UsageError(options.tokens, cat("is ", file.size(), " bytes; ", options.batch,
                                         " rows of T + 1 int32 ids, T from 1 to ", model.context, ", are expected"));
  }
  std::vector<int32_t> all(ids);
  file.read_exact(all.data(), all.size() * 4, 0);
  Batch batch = make_batch(options.batch, width - 1);
  for (int64_t row = 0; row < options.batch; ++row) {
    const auto first = all.begin() + row * width;
    std::copy(first, first + width - 1, batch.inputs.begin() + row * (width - 1));
    std::copy(first + 1, first + width, batch.targets.begin() + row * (width - 1));
  }
  for (int64_t i = 0; i < ids; ++i) {
    if (all[i] < 0 || all[i] >= model.vocab_size) {
      throw DamagedError(options.tokens,
                         cat("offset ", 4 * i, ": the id ", all[i], "; ids are from 0 to ", model.vocab_size - 1));
    }
  }
  return batch;
}

class OutputFile {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, const std::vector<double>& values) {
    values_.emplace_back(values.begin(), values.end());
    tensors_.push_back({{name, DType::kF32, std::move(shape)}, values_.back().data()});
  }
  void add(const std::string& name, std::vector<int64_t> shape, const std::vector<int32_t>& values) {
    indices_.push_back(values);
    tensors_.push_back({{name, DType::kI32, std::move(shape)}, indices_.back().data()});
  }
  void write(const std::string& path) const { write_safetensors(path, tensors_); }

 private:
  std::deque<std::vector<float>> values_;  // the tensors point into these
  std::deque<std::vector<int32_t>> indices_;
  std::vector<SafetensorsData> tensors_;
};

void add_choices(OutputFile& out, const std::vector<ChoiceRecord>& choices) {
  for (const ChoiceRecord& record : choices) {
    const std::vector<int64_t> shape{std::ssize(record.blocks) / record.per_token, record.per_token};
    out.add(cat("layers.", record.layer, ".ffn.blocks"), shape, record.blocks);
    out.add(cat("layers.", record.layer, ".ffn.weights"), shape, record.weights);
  }
}

std::vector<int64_t> dimensions(const Shape& shape) {
  std::vector<int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

// A folder that is not there, an empty one, or what save_weights wrote before.
void require_room(const std::string& folder) {
  if (!exists(folder)) return;
  if (is_real_folder(folder)) {
    if (std::filesystem::is_empty(folder)) return remove_tree(folder);
    if (sound_step(folder) == 0) return;
  }
  throw UsageError("--save " + folder,
                   "is there already and holds no initial weights; give a folder that is not there");
}

// The weights with zero moments, as a run has them before its first step.
void save_weights(Communicator& comm, const Config& config, const std::string& folder) {
  const Parallel alone{&comm, &comm, &comm};
  Config one_batch = config;
  one_batch.parallel.expert = 1;
  one_batch.train.tokens_per_step = config.train.micro_batch * config.model.context;
  Engine engine(one_batch, alone, cpu_runtime(), {});
  engine.initialise([&] { return training_token_counts(config); });
  StatePieces state = state_pieces(engine, StateShare::kHeld);
  CheckpointContents contents;
  contents.parameters = std::move(state.parameters);
  contents.moments = std::move(state.moments);
  contents.config = resolved_json(config);
  contents.trainer["tokens"] = int64_t{0};
  contents.trainer["fingerprints"] = to_json(engine.fingerprints());
  write_checkpoint(comm, folder, 0, contents);
}

}  // namespace

void probe(const Config& config, const std::optional<FoundCheckpoint>& from, DeviceRuntime& runtime,
           const ProbeOptions& options) {
  const Batch batch = read_rows(options, config.model);
  if (!options.save.empty()) require_room(options.save);
  const auto alone = make_self_communicator();
  const MemoryPlan memory = measure_memory(config, batch.batch, batch.time, runtime);
  const PassPlan& plan = memory.train;
  require_memory(runtime.device(), memory.parameters + memory.gradients + memory.constants + plan.saved + plan.scratch,
                 [&] {
                   return cat(plan.saved + plan.scratch, " of them for ", batch.batch, " rows of ", batch.time,
                              " tokens: fewer or shorter rows need less");
                 });
  Stream stream(runtime);
  Arena saved(runtime, "saved", plan.saved), scratch(runtime, "scratch", plan.scratch);
  Transformer model(config);
  model.allocate(runtime);
  ParamStore& params = model.params();
  if (from) {
    ModelPieces whole = whole_pieces(stream, params);
    read_parameters(*alone, *from, whole.pieces);
    store_values(stream, params, whole);
  } else {
    model.initialise(stream, config.train.seed, [&] { return training_token_counts(config); });
  }

  const DType accumulate = accumulate_type(params.dtype());
  const Buffer gradients(runtime, {params.flat_size()}, accumulate);
  params.use_gradients(gradients.tensor({params.flat_size()}, accumulate));
  Context ctx{stream, saved, scratch,         {alone.get(), alone.get(), alone.get()}, config.train.seed,
              1,      0,     options.training};
  Inspection inspection;
  inspection.logits = inspection.hidden = true;
  const double scale = 1.0 / static_cast<double>(batch.batch * batch.time);
  const LossSum loss = model.forward_backward(ctx, batch, scale, &inspection);

  OutputFile out;
  out.add("loss", {}, std::vector<double>{loss.nll * scale + loss.extra_loss});
  out.add("extra_loss", {}, std::vector<double>{loss.extra_loss});
  out.add("logits", {batch.batch, batch.time, config.model.vocab_size}, inspection.logits_out);
  for (size_t i = 0; i < inspection.hidden_out.size(); ++i) {
    out.add(cat("hidden.", i), {batch.batch, batch.time, config.model.d_model}, inspection.hidden_out[i]);
  }
  for (const Param& param : params.all()) {
    const Tensor grad = param.grad.view({param.count}).slice(0, param.spec.shape.numel());  // without padded rows
    out.add("grad." + param.spec.name, dimensions(param.spec.shape), read_values(stream, grad));
  }
  add_choices(out, inspection.choices);
  out.write(options.out);
  if (!options.save.empty()) save_weights(*alone, config, options.save);
}

}  // namespace sffn
