// What the CPU backend found on this machine.
#pragma once
#include <string>

namespace sffn::cpu {

// Without it bf16 matrices are multiplied in fp32: same roundings of what is stored, about half the speed of fp32.
bool cpu_has_bf16_matmul();
// One line for start-up: library, version and how bf16 is multiplied.
std::string describe_cpu_kernels();

}  // namespace sffn::cpu
