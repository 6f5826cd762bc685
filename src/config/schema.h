// The reference of the configuration, collected by running the parser on a reader that writes down what it is asked.
#pragma once
#include "config/reader.h"

#include <string>

namespace sffn {

// In the order of the file. Members of lists stand under N, as in "data.train.N.path".
Schema config_schema();
// [{"key", "type", "required", "default", "default_rule", "allowed", "meaning"}, ...]: a default is a value, or a rule
// over other keys.
Json to_json(const Schema&);
// A Markdown table, and lines for a terminal.
std::string to_markdown(const Schema&);
std::string to_text(const Schema&);
// configs/README.md as far as this layer knows the keys: the methods' follow.
std::string config_reference_markdown();

}  // namespace sffn
