// Where SFFN_FEW_SHAPES is set, tests of many shapes take a few of them, which are enough to start every kernel: under
// ThreadSanitizer each access of a kernel costs many times itself.
#pragma once
#include <cstdlib>
#include <initializer_list>
#include <vector>

namespace sffn::test {

inline bool few_shapes() { return std::getenv("SFFN_FEW_SHAPES") != nullptr; }

template <class T>
std::vector<T> all_or_few(std::initializer_list<T> all, std::initializer_list<T> few) {
  return few_shapes() ? few : all;
}

}  // namespace sffn::test
