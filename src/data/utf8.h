// Well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once
#include <cstddef>
#include <string_view>

namespace sffn {

// Length of the longest prefix of whole well-formed characters.
size_t valid_utf8_prefix(std::string_view text);
// Bytes that are not part of a well-formed character.
size_t count_invalid_utf8(std::string_view text);

}  // namespace sffn
