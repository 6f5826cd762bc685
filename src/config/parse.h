// The parts of parse_config.
#pragma once
#include "config/config.h"
#include "config/reader.h"

namespace sffn {

inline constexpr Range kLayerCount{.low = 1, .high = 65536};
inline constexpr Range kWidth{.low = 1, .high = 16777216};
inline constexpr Range kTokenCount{.low = 1, .high = 2147483647};  // token ids and positions are int32

ModelConfig read_model(ConfigReader reader);
// Every key in the order of the file's sections; a collecting reader makes the schema of it.
Config read_config(ConfigReader& reader);

}  // namespace sffn
