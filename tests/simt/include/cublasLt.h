// Stands in for the header of this name: products of the executor's device are in matmul.cpp, and only the version is
// asked for elsewhere.
#pragma once
#include <cstddef>

size_t cublasLtGetVersion();
