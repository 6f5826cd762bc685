// TensorBoard event files: TFRecord framing around protobuf Event messages, both written by hand (formats.md lists the
// few fields needed; a protobuf dependency would cost more than it saves).
#pragma once
#include "core/file.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace sffn::tensorboard {

uint32_t crc32c(std::string_view data);
// u64 length | masked crc of it | data | masked crc of it
std::string frame(std::string_view event);
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, std::string_view tag, float value);

}  // namespace sffn::tensorboard
