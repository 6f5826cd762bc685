// Runs CUDA kernels on the host, strictly: every CUDA thread is a fiber, a fiber runs until its next barrier or warp
// operation, and what CUDA leaves undefined (threads of a block at different barriers, a lane missing from a mask, a
// read of unwritten dynamic shared memory, an access outside a device allocation) is an error or a NaN, never a result.
//
// Schedules decide in which order ready threads and blocks go on. Under AddressSanitizer stacks are announced to it;
// under ThreadSanitizer every CUDA thread is a fiber of the detector, and only barriers, __syncwarp and the ends of a
// kernel order memory, so that a race between any two CUDA threads is reported, whatever the schedule.
//
// Not seen: weak memory ordering beyond races, occupancy, fast mathematics, unwritten static shared memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>

struct dim3;

namespace simt {

struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};

enum class Schedule : uint8_t { kForward, kReverse, kRandom };
struct Options {
  Schedule schedule = Schedule::kForward;
  uint64_t seed = 1;
};
// From SFFN_SIMT_SCHEDULE (forward, reverse, random or random:SEED) at first use; tests may change them.
Options& options();

// Runs kernel() once for each thread of the grid. Launches of several host threads go one after the other. `address`
// of the kernel is noted for kernels_run(). Throws Error.
void run_grid(const dim3& grid, const dim3& block, size_t shared_bytes, const void* address,
              const std::function<void()>& kernel);

// How often each kernel has been launched, by address.
std::map<const void*, int64_t> launches();
// How often each kernel was launched is appended to the file SFFN_SIMT_KERNELS when the process ends: lines of its
// distance from run_grid and the count (kernels.sh reads them).

// ---- What kernels call through cuda_runtime.h ----

struct Site {
  const char* file;
  int line;
};
enum class WarpOperation : uint8_t { kBarrier, kShuffle, kBallot, kGather };

void block_barrier(const Site& site);
// Waits for the lanes of `mask`; all must come to the same place. kShuffle: the value of lane `source`; kBallot: bit l
// is that of lane l's value.
uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int source, const Site& site);
// All 32 lanes meet, each with `bytes` <= kGatherBytes of data; lane l's stand at l·kGatherBytes of the result, until
// the lane's next warp operation. What operations on fragments are made of.
inline constexpr size_t kGatherBytes = 64;
const std::byte* gather_warp(const void* data, size_t bytes, const Site& site);
int lane();                // of the running thread in its warp
unsigned thread_number();  // in its block
uint64_t block_number();   // of the running block, among all that ever ran
// For ThreadSanitizer a CUDA thread is its block's identity and its number. Blocks take the identities in turn, so that
// a thread of one block is not the same thread of the next; what is kept for threads is kept for each identity.
inline constexpr unsigned kIdentities = SIMT_TSAN ? 2 : 1;
unsigned identity();  // of the running block
void* dynamic_shared_memory();
size_t dynamic_shared_bytes();
// Ends the kernel with an Error that names the thread.
[[noreturn]] void fail(const char* what, const Site& site);

// ---- What operations of warpgroups (warpgroup.h) are made of (warpgroup.cpp) ----

// Dynamic shared memory, which begins at address `first` of the window of 256 KiB that descriptors of matrices reach.
struct SharedWindow {
  const std::byte* memory;
  size_t bytes;
  uint32_t first;
};
SharedWindow shared_window();
uint32_t shared_address(const void* memory, const Site& site);
// Copies of the running thread have come to shared memory: they must be published before a warpgroup reads any.
void note_copied();
void note_published();
// The running thread asks for a product. The lanes of a warp must do so together.
void note_product(uint64_t a, uint64_t b, const Site& site);
// The first of `threads` of the block that ended that did not ask for the products of its warpgroup's first thread; or
// `threads`.
unsigned first_of_other_products(unsigned threads);

// ---- Device memory (device_memory.cpp): reachable from kernels and copies only ----

class DeviceMemoryAccess {  // opens all allocations, for all threads; nests
 public:
  DeviceMemoryAccess();
  ~DeviceMemoryAccess();
  DeviceMemoryAccess(const DeviceMemoryAccess&) = delete;
};

}  // namespace simt
