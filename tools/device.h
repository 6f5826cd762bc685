// What a command computes on.
#pragma once
#include "comm/launch.h"
#include "core/runtime.h"

#include <memory>
#include <string>

namespace sffn {

struct OpenDevice {
  DeviceRuntime* runtime = nullptr;
  Communicator* ranks = nullptr;               // all of them, for tensors of the device and of the host
  std::string description;                     // "backend cpu: oneDNN …", "backend cuda: 8 × NVIDIA H100 …"
  std::unique_ptr<Communicator> ranks_on_gpu;  // where the world's move no tensors of the device
};

// UsageError for any but "auto", "cpu" and "cuda".
void require_backend_name(const std::string& backend);

// "cpu" or "cuda"; "auto" is cuda where this build has it and every rank sees a GPU. Collective. UsageError for what
// this build or this machine has not.
std::string choose_backend(const std::string& wanted, Communicator& ranks);

// The device of each rank: on a node with GPUs, one for each of its ranks. Collective. Throws AgreedError of exit code
// 2, naming the CPU backend as the alternative, where a GPU is missing or cannot be used.
OpenDevice open_device(const std::string& backend, World& world);
// The same for a command of one rank.
DeviceRuntime& open_device_alone(const std::string& backend);

OpenDevice cpu_device(World& world);

}  // namespace sffn
