#include "train/hooks/tensorboard.h"

#include "core/log.h"
#include "train/hooks.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

namespace sffn {
namespace tensorboard {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;  // Castagnoli, reflected
    table[i] = c;
  }
  return table;
}

uint32_t masked_crc(std::string_view data) { return std::rotr(crc32c(data), 15) + 0xa282ead8u; }

template <class T>
void put_fixed(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);  // files are little-endian, as are all supported machines
  out.append(bytes, sizeof value);
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

enum Wire : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_tag(std::string& out, int field, Wire wire) { put_varint(out, static_cast<uint64_t>(field) << 3 | wire); }

void put_bytes(std::string& out, int field, std::string_view value) {
  put_tag(out, field, kBytes);
  put_varint(out, value.size());
  out += value;
}

}  // namespace

uint32_t crc32c(std::string_view data) {
  static constexpr std::array<uint32_t, 256> kTable = make_crc_table();
  uint32_t c = ~0u;
  for (unsigned char byte : data) c = kTable[(c ^ byte) & 0xff] ^ (c >> 8);
  return ~c;
}

std::string frame(std::string_view event) {
  std::string length;
  put_fixed(length, static_cast<uint64_t>(event.size()));
  std::string record = length;
  put_fixed(record, masked_crc(length));
  record += event;
  put_fixed(record, masked_crc(event));
  return record;
}

std::string version_event(double wall_time) {
  std::string event;
  put_tag(event, 1, kFixed64);
  put_fixed(event, wall_time);
  put_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string scalar_event(double wall_time, int64_t step, std::string_view tag, float value) {
  std::string entry;
  put_bytes(entry, 1, tag);
  put_tag(entry, 2, kFixed32);
  put_fixed(entry, value);
  std::string summary;
  put_bytes(summary, 1, entry);
  std::string event;
  put_tag(event, 1, kFixed64);
  put_fixed(event, wall_time);
  put_tag(event, 2, kVarint);
  put_varint(event, static_cast<uint64_t>(step));
  put_bytes(event, 5, summary);
  return event;
}

}  // namespace tensorboard

namespace {

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

class TensorBoardHook final : public Hook {
 public:
  TensorBoardHook(const std::string& folder, int64_t every) : every_(every) {
    char host[256] = "host";
    (void)gethostname(host, sizeof host - 1);
    guarded([&] {
      make_directories(folder);
      const double started = now();
      file_ = File::open(
          cat(folder, "/events.out.tfevents.", static_cast<int64_t>(started), ".", host, ".", getpid(), ".0"),
          File::Mode::kAppend);
      write(tensorboard::version_event(started));
    });
  }

  void after_step(const StepReport& r) override {
    if (r.step % every_ != 0 && r.step != r.steps) return;
    const std::pair<const char*, double> scalars[] = {
        {"loss/train", r.loss},
        {"optimizer/lr", r.learning_rate},
        {"optimizer/grad_norm", r.gradient_norm},
        {"speed/step_ms", r.step_ms},
        {"speed/tokens_per_second", r.tokens_per_second},
        {"speed/model_tflops", r.model_tflops},
        {"memory/bytes", static_cast<double>(r.memory_bytes)},
    };
    for (const auto& [tag, value] : scalars) put(r.step, tag, value);
    if (r.mfu) put(r.step, "speed/mfu", *r.mfu);
    for (const Json::Member& layer : r.ffn.as_object()) {
      for (const Json::Member& statistic : layer.value.as_object()) {
        put(r.step, cat("ffn/", layer.key, "/", statistic.key), statistic.value.as_double());
      }
    }
  }

  void after_evaluation(const EvaluationReport& r) override {
    for (const auto& [name, result] : r.sets) {
      put(r.step, "eval/" + name + "/nll", result.nll);
      put(r.step, "eval/" + name + "/perplexity", result.perplexity);
      if (result.bits_per_byte) put(r.step, "eval/" + name + "/bits_per_byte", *result.bits_per_byte);
    }
  }

 private:
  void put(int64_t step, std::string_view tag, double value) {
    guarded([&] { write(tensorboard::scalar_event(now(), step, tag, static_cast<float>(value))); });
  }
  void write(const std::string& event) {
    if (file_.descriptor() < 0) return;
    const std::string record = tensorboard::frame(event);
    file_.write(record.data(), record.size());
  }
  template <class F>
  void guarded(F&& f) {
    try {
      f();
    } catch (const Error& e) {
      if (!warned_) log::warn("TensorBoard events cannot be written, the run goes on: ", e.what());
      warned_ = true;
    }
  }

  int64_t every_;
  File file_;
  bool warned_ = false;
};

}  // namespace

std::unique_ptr<Hook> make_tensorboard_hook(const std::string& folder, int64_t every) {
  return std::make_unique<TensorBoardHook>(folder, every);
}

}  // namespace sffn
