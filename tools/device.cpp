#include "tools/device.h"

#include "comm/agree.h"
#include "comm/gpu_of_rank.h"
#include "comm/nccl.h"
#include "comm/placement.h"
#include "kernels/cpu/capabilities.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <utility>

namespace sffn {
namespace {

#if SFFN_HAS_CUDA

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += word + " ";
  return text;
}

std::vector<std::string> split(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::string>(words), {}};
}

// Not collective: rank `rank_on_host` of those that see `visible` and have these NCCL_HOSTID.
DeviceRuntime& open_gpu(const std::vector<std::string>& visible, const std::vector<std::string>& host_ids,
                        int rank_on_host) {
  std::vector<std::vector<std::string>> views;
  for (const std::string& view : visible) views.push_back(split(view));
  if (views[static_cast<size_t>(rank_on_host)].empty()) require_gpu(0);  // says why there is none
  return cuda_runtime(gpu_of_rank(std::move(views), host_ids, rank_on_host));
}

std::string auto_backend(Communicator& ranks) {
  bool mine = false;
  together(ranks, [&] { mine = !visible_gpus().empty(); });
  const std::vector<char> all = ranks.gather_values(static_cast<char>(mine));
  const auto without = std::find(all.begin(), all.end(), 0);
  if (without == all.end()) return "cuda";
  if (std::find(all.begin(), all.end(), 1) == all.end()) return "cpu";
  throw AgreedError(ExitCode::kUsage, cat("backend: auto: rank ", without - all.begin(),
                                          " sees no GPU and others do; choose \"cpu\", or start ranks on nodes with "
                                          "GPUs only"));
}

#else

std::string auto_backend(Communicator&) { return "cpu"; }

#endif

}  // namespace

void require_backend_name(const std::string& backend) {
  if (backend != "auto" && backend != "cpu" && backend != "cuda") {
    throw UsageError("backend", cat("\"", backend, "\" is not known; known: auto, cpu, cuda"));
  }
}

std::string choose_backend(const std::string& wanted, Communicator& ranks) {
  together(ranks, [&] {
    require_backend_name(wanted);
    if (wanted == "cuda" && !kHasCuda) {
      throw UsageError("backend", "cuda is not in this build; use cpu, or configure with the preset cuda");
    }
  });
  return wanted == "auto" ? auto_backend(ranks) : wanted;
}

OpenDevice cpu_device(World& world) {
  return {&cpu_runtime(), &world.ranks(), cat("backend cpu: ", cpu::describe_cpu_kernels()), nullptr};
}

OpenDevice open_device(const std::string& backend, World& world) {
  OpenDevice opened = cpu_device(world);
  if (choose_backend(backend, world.ranks()) == "cpu") return opened;
#if SFFN_HAS_CUDA
  std::string visible;
  together(world.ranks(), [&] { visible = joined(visible_gpus()); });
  const std::vector<std::string> of_host = gather_texts(world.host(), visible);
  const char* host_id = std::getenv("NCCL_HOSTID");
  const std::vector<std::string> host_ids = gather_texts(world.host(), host_id == nullptr ? "" : host_id);
  together(world.ranks(), [&] { opened.runtime = &open_gpu(of_host, host_ids, world.host().rank()); });
  opened.ranks_on_gpu = make_nccl_communicator(world.ranks().split(0, world.ranks().rank()), *opened.runtime);
  opened.ranks = opened.ranks_on_gpu.get();
  std::string gpu;
  together(world.ranks(), [&] { gpu = describe_gpu(opened.runtime->device().index); });
  opened.description = cat("backend cuda: ", count_equal(gather_texts(world.ranks(), gpu)), ", NCCL ", nccl_version());
#endif
  return opened;
}

DeviceRuntime& open_device_alone(const std::string& backend) {
  const auto alone = make_self_communicator();
  if (choose_backend(backend, *alone) == "cpu") return cpu_runtime();
#if SFFN_HAS_CUDA
  return cuda_runtime();
#else
  return cpu_runtime();
#endif
}

}  // namespace sffn
