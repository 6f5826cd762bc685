// The GPUs of this machine as a user meets them: what they are, and why one cannot be used.
#pragma once
#include "core/stream.h"

#include <string>
#include <vector>

namespace sffn {

// Identities of the GPUs that this process may use, in the order of their numbers; none where there is no GPU or no
// driver. UsageError: a driver that is too old for this build, or that does not answer.
std::vector<std::string> visible_gpus();

// Throws UsageError naming the CPU backend as the alternative where GPU `index` does not exist, is in use by another,
// or is older than any that kernels are written for.
void require_gpu(int index);
// The same where this binary holds no kernels for the GPU of the stream; RunError where the smallest one fails. Whether
// they multiply on warpgroups.
bool require_kernels(Stream& stream);

size_t free_gpu_bytes(int index);  // that can still be allocated

// "NVIDIA H100 80GB HBM3, 79.6 GiB; driver 13.0, runtime 13.0, cuBLAS 13.1.0", and what this binary leaves unused of
// it.
std::string describe_gpu(int index);

}  // namespace sffn
