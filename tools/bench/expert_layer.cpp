#include "tools/bench/expert_layer.h"

#include "core/random.h"
#include "ffn/registry.h"
#include "kernels/ops.h"
#include "kernels/ref/activation.h"
#include "nn/host_values.h"

#include <algorithm>
#include <cmath>

namespace sffn {
namespace {

constexpr size_t kBoundless = size_t{1} << 46;  // of an arena on the meta device

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void add(double* to, double factor, const double* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * x[i];
}

struct Distance {
  double difference = 0, reference = 0;
  void add(const double* got, const std::vector<double>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) {
      difference += (got[i] - expected[i]) * (got[i] - expected[i]);
      reference += expected[i] * expected[i];
    }
  }
  double relative() const { return std::sqrt(difference / reference); }
};

}  // namespace

struct ExpertLayer::Host {
  std::vector<double> x, dy, keys, values, key_bias, value_bias;
  std::vector<int32_t> blocks;
};

ExpertLayer::ExpertLayer(Stream& stream, const LayerSizes& sizes, DType dtype)
    : stream_(stream), sizes_(sizes), dtype_(dtype) {
  shape_.cells = sizes.cells;
  shape_.block_size = sizes.block_size;
  shape_.per_token = sizes.per_token();
  shape_.d_ff = sizes.active;
  shape_.bias = sizes.bias;
  ModelConfig model;
  model.d_model = sizes.width;
  model.layers = 1;
  tables_ = BlockStore::add({.params = params_, .model = model}, shape_);
  DeviceRuntime& runtime = stream.runtime();
  params_.allocate(runtime, dtype);
  gradients_ = Buffer(runtime, {params_.flat_size()}, DType::kF32);
  params_.use_gradients(gradients_.tensor({params_.flat_size()}, DType::kF32));
  for (Tensor* t : {&x_, &dy_, &y_, &dx_}) *t = allocate({sizes.tokens, sizes.width}, dtype);
  draw(x_, 1, 1);
  draw(dy_, 2, 1);
  draw(tables_.keys->value, 3, 1 / std::sqrt(static_cast<double>(sizes.width)));
  draw(tables_.values->value, 4, 1 / std::sqrt(static_cast<double>(sizes.active)));
  blocks_ = choose();
  chosen_.blocks = chosen_.kept = allocate({sizes.tokens, sizes.per_token()}, DType::kI32);
  stream.copy_to_device(chosen_.blocks, blocks_.data());
  stream.synchronize();
}

Tensor ExpertLayer::allocate(const Shape& shape, DType dtype) {
  return memory_.emplace_back(stream_.runtime(), shape, dtype).tensor(shape, dtype);
}

void ExpertLayer::draw(const Tensor& tensor, uint64_t key, double std) {
  ops::random_normal(stream_, tensor, RandomKey{1, key}, 0, std, false);
}

std::vector<int32_t> ExpertLayer::choose() const {
  const int64_t b = sizes_.per_token(), E = sizes_.expansion();
  std::vector<int32_t> blocks;
  blocks.reserve(static_cast<size_t>(sizes_.tokens * b));
  for (int64_t c = 0; c < sizes_.tokens * b; ++c) {
    const auto within = static_cast<int64_t>(mix64(static_cast<uint64_t>(c)) % static_cast<uint64_t>(E));
    blocks.push_back(static_cast<int32_t>(c % b * E + within));
  }
  return blocks;
}

void ExpertLayer::use(ExpertForm form, bool plans_for_gpu) {
  saved_.reset();
  scratch_.reset();
  size_t saved = kBoundless, scratch = kBoundless;
  if (!stream_.is_meta()) {
    Stream meta(meta_runtime());
    ExpertLayer plan(meta, sizes_, dtype_);
    plan.use(form, stream_.is_cuda());
    plan.forward();
    plan.backward();
    saved = plan.saved_->high_water(), scratch = plan.scratch_->high_water();
  }
  saved_ = std::make_unique<Arena>(stream_.runtime(), "saved", saved);
  scratch_ = std::make_unique<Arena>(stream_.runtime(), "scratch", scratch);
  compute_ = std::make_unique<ExpertCompute>(
      shape_, tables_, plan_experts(shape_, form, plans_for_gpu || stream_.is_cuda(), dtype_), false);
}

void ExpertLayer::forward() {
  saved_->reset();
  kept_ = {};
  Context ctx = context();
  compute_->forward(ctx, y_, x_, chosen_, kept_);
}

void ExpertLayer::backward() {
  Context ctx = context();
  compute_->backward(ctx, dx_, Tensor(), dy_, x_, chosen_, kept_);
}

size_t ExpertLayer::memory_bytes() const {
  size_t bytes = params_.bytes() + gradients_.bytes() + saved_->capacity() + scratch_->capacity();
  for (const Buffer& buffer : memory_) bytes += buffer.bytes();
  return bytes;
}

// y = Σ_c f(z_c) V_c + c_v, z = x·K_c + c_c;  dx = Σ_c f'(z_c)·⟨dy, V_c⟩ K_c, over the cells of the chosen blocks
ExpertLayer::Expected ExpertLayer::token_reference(const Host& host, const LayerSizes& s, Activation f, int64_t n) {
  const int64_t D = s.width, b = s.per_token();
  const double *x = &host.x[static_cast<size_t>(n * D)], *dy = &host.dy[static_cast<size_t>(n * D)];
  Expected out{std::vector<double>(static_cast<size_t>(D)), std::vector<double>(static_cast<size_t>(D))};
  if (s.bias) out.y = host.value_bias;
  for (int64_t i = 0; i < b; ++i) {
    const int64_t first = host.blocks[static_cast<size_t>(n * b + i)] * s.block_size;
    for (int64_t c = first; c < first + s.block_size; ++c) {
      const double *key = &host.keys[static_cast<size_t>(c * D)], *value = &host.values[static_cast<size_t>(c * D)];
      const double z = dot(x, key, D) + (s.bias ? host.key_bias[static_cast<size_t>(c)] : 0);
      add(out.y.data(), ref::activation(z, f), value, D);
      add(out.dx.data(), ref::activation_derivative(z, f) * dot(dy, value, D), key, D);
    }
  }
  return out;
}

// dV_c = Σ_n f(z) dy_n and dK_c = Σ_n f'(z)·⟨dy_n, V_c⟩ x_n, over the tokens that chose c's block.
double ExpertLayer::table_error(const Host& host, int64_t samples) {
  const LayerSizes& s = sizes_;
  const int64_t D = s.width, G = s.block_size, b = s.per_token();
  const int64_t blocks = std::max<int64_t>(1, std::min(samples / G, s.blocks())), cells = std::min(samples, G);
  Distance distance;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t block = i * s.blocks() / blocks;
    std::vector<int64_t> tokens;
    for (size_t c = 0; c < host.blocks.size(); ++c) {
      if (host.blocks[c] == block) tokens.push_back(static_cast<int64_t>(c) / b);
    }
    const std::vector<double> dkeys = read_values(stream_, tables_.keys->grad.slice(block * G, cells));
    const std::vector<double> dvalues = read_values(stream_, tables_.values->grad.slice(block * G, cells));
    std::vector<std::vector<double>> of_keys(static_cast<size_t>(cells)), of_values(of_keys);
#pragma omp parallel for schedule(dynamic)
    for (int64_t j = 0; j < cells; ++j) {
      std::vector<double>&dk = of_keys[static_cast<size_t>(j)], &dv = of_values[static_cast<size_t>(j)];
      dk.resize(static_cast<size_t>(D)), dv.resize(static_cast<size_t>(D));
      const auto row = static_cast<size_t>((block * G + j) * D);
      for (const int64_t n : tokens) {
        const double *x = &host.x[static_cast<size_t>(n * D)], *dy = &host.dy[static_cast<size_t>(n * D)];
        const double z = dot(x, &host.keys[row], D) + (s.bias ? host.key_bias[static_cast<size_t>(block * G + j)] : 0);
        add(dv.data(), ref::activation(z, shape_.activation), dy, D);
        add(dk.data(), ref::activation_derivative(z, shape_.activation) * dot(dy, &host.values[row], D), x, D);
      }
    }
    for (int64_t j = 0; j < cells; ++j) {
      distance.add(&dkeys[static_cast<size_t>(j * D)], of_keys[static_cast<size_t>(j)]);
      distance.add(&dvalues[static_cast<size_t>(j * D)], of_values[static_cast<size_t>(j)]);
    }
  }
  return distance.relative();
}

LayerErrors ExpertLayer::errors(int64_t samples) {
  ops::fill_zero(stream_, gradients_.tensor({params_.flat_size()}, DType::kF32));
  forward();
  backward();
  Host host{.x = read_values(stream_, x_),
            .dy = read_values(stream_, dy_),
            .keys = read_values(stream_, tables_.keys->value),
            .values = read_values(stream_, tables_.values->value),
            .key_bias = {},
            .value_bias = {},
            .blocks = blocks_};
  if (sizes_.bias) {
    host.key_bias = read_values(stream_, tables_.key_bias->value);
    host.value_bias = read_values(stream_, tables_.value_bias->value);
  }
  const int64_t count = std::min(samples, sizes_.tokens), D = sizes_.width;
  const std::vector<double> y = read_values(stream_, y_), dx = read_values(stream_, dx_);
  std::vector<Expected> expected(static_cast<size_t>(count));
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    expected[static_cast<size_t>(i)] = token_reference(host, sizes_, shape_.activation, i * sizes_.tokens / count);
  }
  Distance of_y, of_dx;
  for (int64_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(i * sizes_.tokens / count * D);
    of_y.add(&y[row], expected[static_cast<size_t>(i)].y);
    of_dx.add(&dx[row], expected[static_cast<size_t>(i)].dx);
  }
  return {of_y.relative(), of_dx.relative(), table_error(host, samples)};
}

}  // namespace sffn
