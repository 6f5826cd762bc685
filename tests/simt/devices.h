// The GPUs of the executor, and what may be wrong with them: for tests of what a user is told. One process has them
// all.
#pragma once
#include "cuda_runtime.h"

#include <string>

namespace simt {

struct Devices {
  int count = 4;
  cudaError_t count_error = cudaSuccess;   // what cudaGetDeviceCount says
  cudaError_t set_error = cudaSuccess;     // what cudaSetDevice says
  cudaError_t kernel_error = cudaSuccess;  // what looking for a kernel's code says
  int driver = 13000, runtime = 13000;     // 0: no driver
  std::string name = "SIMT executor";
  int major = 9, minor = 0;
  size_t shared_bytes = 227 << 10;  // that a block can have
};

// SFFN_SIMT_DEVICES at first use: their number, or what is wrong (devices.cpp lists the words); tests may change them.
Devices& devices();
Devices devices_named(const std::string& words);

}  // namespace simt
