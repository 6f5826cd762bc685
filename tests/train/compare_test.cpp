#include "train/compare.h"

#include "ffn/method_model.h"

#include <cstring>

using namespace sffn;
using namespace sffn::test;

namespace {

// The CPU, but one id of the batch of step `wrong_step` arrives changed.
class Unsound final : public DeviceRuntime {
 public:
  Unsound(size_t batch_bytes, int64_t wrong_step) : batch_bytes_(batch_bytes), wrong_copy_(3 * (wrong_step - 1)) {}
  Device device() const override { return Device::cpu(); }
  void* allocate(size_t bytes) override { return cpu_runtime().allocate(bytes); }
  void release(void* data, size_t bytes) override { cpu_runtime().release(data, bytes); }
  std::unique_ptr<NativeStream> make_stream(Urgency) override { return nullptr; }
  void copy_to_device(NativeStream*, void* device, const void* host, size_t bytes) override {
    std::memcpy(device, host, bytes);
    if (bytes != batch_bytes_) return;  // inputs, targets, positions
    if (copies_++ == wrong_copy_) static_cast<int32_t*>(device)[4] ^= 1;
  }
  void copy_to_host(NativeStream*, void* host, const void* device, size_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  void synchronize(NativeStream*) override {}

 private:
  size_t batch_bytes_;
  int64_t wrong_copy_, copies_ = 0;
};

Config avg_k() {
  Config config = model_of(*find_ffn_method("avg_k"), Precision::kFp32);
  config.train.micro_batch = 3;
  config.model.context = 7;
  return config;
}

}  // namespace

// Kills: choices of the last layer left out, choices after the states that follow from them.
TEST_CASE("a comparison goes through a step in its order, choices of the last layer included", "[compare]") {
  std::vector<std::string> names;
  compare_devices(avg_k(), cpu_runtime(), cpu_runtime(), 1, [&](const ComparedStep& step) {
    for (const ComparedTensor& tensor : step.tensors) {
      names.push_back(tensor.name);
      CHECK(tensor.error == 0);
    }
    return true;
  });
  REQUIRE(names.size() > 5);
  names.resize(5);
  CHECK(names == std::vector<std::string>{"hidden.0", "layers.1.ffn.blocks", "hidden.1", "logits", "loss"});
}

// Kills: one side compared with itself, a difference that passes, a comparison that goes on after it was ended.
TEST_CASE("a device that gets one id wrong differs in the step and the tensor where that shows first", "[compare]") {
  Unsound unsound(3 * 7 * sizeof(int32_t), 2);
  int64_t steps = 0;
  std::string first;
  compare_devices(avg_k(), cpu_runtime(), unsound, 4, [&](const ComparedStep& step) {
    steps = step.step;
    for (const ComparedTensor& tensor : step.tensors) {
      if (tensor.differs() && first.empty()) first = tensor.name;
    }
    return first.empty();
  });
  CHECK(steps == 2);
  CHECK(first == "hidden.0");
}
