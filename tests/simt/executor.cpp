// Compiled without instrumentation, as fiber.cpp.
#include "simt/executor.h"

#include "cuda_runtime.h"
#include "simt/devices.h"
#include "simt/fiber.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace simt {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxMasks = 8;  // distinct masks a thread synchronises with

enum class State : uint8_t { kReady, kAtBarrier, kInWarpOperation, kDone };

struct Thread {
  Fiber fiber;
  State state = State::kDone;
  WarpOperation operation{};
  unsigned mask = 0;
  int source = 0;
  uint64_t value = 0, result = 0;
  const void* data = nullptr;
  size_t bytes = 0;
  Site site{};
  struct Meetings {
    unsigned mask, count;
  };
  Meetings meetings[kMaxMasks] = {};  // so far, by participants (mask 0: the block)
};

struct Warp {
  alignas(16) std::byte gathered[32 * kGatherBytes];
};

// Kept until the kernel ends: memory used again would look like a race between blocks.
struct Block {
  std::unique_ptr<std::byte[]> shared;
  std::map<std::pair<unsigned, unsigned>, char> order_points;  // by (warp, mask): their addresses carry order
};

struct Machine {
  std::mutex lock;
  std::vector<std::unique_ptr<Thread>> pool;  // [identity][thread]
  std::vector<Thread*> threads;               // of the running block
  std::vector<Warp> warps;
  unsigned current = 0, identity = 0;
  bool cancelled = false;
  const std::function<void()>* kernel = nullptr;
  Block* block = nullptr;
  size_t shared_bytes = 0;
  uint64_t block_number = 0;
  std::string failure;
  char kernel_begins = 0, kernel_ends = 0;
};
Machine machine;

// Launches by kernel, written when the process ends.
struct Record {
  std::map<const void*, int64_t> launches;
  ~Record() {
    const char* path = std::getenv("SFFN_SIMT_KERNELS");
    if (path == nullptr || launches.empty()) return;
    FILE* file = std::fopen(path, "a");
    if (file == nullptr) return;
    std::vector<char> all(size_t{1} << 20);  // written at once: other processes append to the same file
    std::setvbuf(file, all.data(), _IOFBF, all.size());
    for (const auto& [address, count] : launches) {
      const auto offset = reinterpret_cast<intptr_t>(address) - reinterpret_cast<intptr_t>(&run_grid);
      std::fprintf(file, "%lld %lld\n", static_cast<long long>(offset), static_cast<long long>(count));
    }
    std::fclose(file);
  }
};
Record record;

std::string where(const Site& site) {
  const std::string file = site.file;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(site.line);
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string name_of(unsigned thread) {
  return "block (" + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + "," + std::to_string(blockIdx.z) +
         ") thread " + std::to_string(thread);
}

// What carries order among the lanes of `mask` in this warp (0: the block). Two take turns, because a fast thread comes
// to its next meeting before a slow one has left this one. Only ThreadSanitizer asks for it.
void* order_point(unsigned mask) {
  if (!SIMT_TSAN) return nullptr;
  Thread& thread = *machine.threads[machine.current];
  unsigned i = 0;
  while (i < kMaxMasks && thread.meetings[i].count != 0 && thread.meetings[i].mask != mask) ++i;
  if (i == kMaxMasks) fail("synchronises with more than 8 different masks", thread.site);
  thread.meetings[i].mask = mask;
  const unsigned parity = thread.meetings[i].count++ % 2;
  const unsigned warp = mask == 0 ? 0 : machine.current / 32 + 1;
  return &machine.block->order_points[{2 * warp + parity, mask}];
}

void go_on(unsigned t) {
  machine.current = t;
  threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
  machine.threads[t]->fiber.resume();
}

[[noreturn]] void finish_thread() {
  release_order(&machine.kernel_ends);
  machine.threads[machine.current]->state = State::kDone;
  finish_fiber();
}

void pause_thread() {
  pause_fiber();
  if (machine.cancelled) finish_thread();
}

void thread_main() {
  acquire_order(&machine.kernel_begins);
  if (!machine.cancelled) (*machine.kernel)();  // else another thread has failed before this one began
  finish_thread();
}

Thread* prepare(unsigned slot) {
  if (slot >= machine.pool.size()) machine.pool.resize(slot + 1);
  std::unique_ptr<Thread>& thread = machine.pool[slot];
  if (!thread) thread = std::make_unique<Thread>();
  thread->fiber.start(thread_main);
  thread->state = State::kReady;
  std::fill(std::begin(thread->meetings), std::end(thread->meetings), Thread::Meetings{});
  return thread.get();
}

// Whether the lanes of `mask` in one warp wait in one operation; not while some have not come. Throws where they never
// can.
bool all_meet(unsigned base, unsigned lanes, unsigned mask, const Thread& first) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    if (lane >= lanes || machine.threads[base + lane]->state == State::kDone) {
      throw Error("the mask names lane " + std::to_string(lane) + ", which is not running, at " + where(first.site));
    }
    const Thread& other = *machine.threads[base + lane];
    if (other.state != State::kInWarpOperation || other.mask != mask) return false;
    if (other.operation != first.operation || !same(other.site, first.site)) {
      throw Error("lanes of one mask meet at " + where(first.site) + " and " + where(other.site));
    }
  }
  return true;
}

// Unlike memcpy, which sanitizers replace by one of theirs, this is not seen to read what a CUDA thread wrote.
void copy_unseen(std::byte* to, const void* from, size_t bytes) {
  using Word = uint32_t __attribute__((may_alias));
  const auto* source = static_cast<const volatile unsigned char*>(from);
  size_t i = 0;
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Word) == 0) {  // of `to` as well: what is gathered begins aligned
    for (; i + sizeof(Word) <= bytes; i += sizeof(Word)) {
      *reinterpret_cast<Word*>(to + i) = *reinterpret_cast<const volatile Word*>(source + i);
    }
  }
  for (; i < bytes; ++i) to[i] = static_cast<std::byte>(source[i]);
}

void complete(unsigned base, unsigned mask) {
  unsigned ballot = 0;
  Warp& warp = machine.warps[base / 32];
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const Thread& thread = *machine.threads[base + lane];
    ballot |= static_cast<unsigned>(thread.value & 1) << lane;
    if (thread.operation == WarpOperation::kGather) {
      copy_unseen(warp.gathered + lane * kGatherBytes, thread.data, thread.bytes);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    Thread& thread = *machine.threads[base + lane];
    thread.result = ballot;
    if (thread.operation != WarpOperation::kShuffle) continue;
    if ((mask >> thread.source & 1) == 0) {
      throw Error("lane " + std::to_string(lane) + " reads a lane outside of the mask at " + where(thread.site));
    }
    thread.result = machine.threads[base + thread.source]->value;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) != 0) machine.threads[base + lane]->state = State::kReady;
  }
}

// Completes the operations of warp `w` whose lanes have all come; whether there were any.
bool resolve_warp(unsigned w) {
  const unsigned base = w * 32, lanes = std::min<unsigned>(32, static_cast<unsigned>(machine.threads.size()) - base);
  bool progress = false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Thread& thread = *machine.threads[base + lane];
    if (thread.state != State::kInWarpOperation) continue;
    if ((thread.mask >> lane & 1) == 0)
      throw Error(name_of(base + lane) + " is not in its own mask at " + where(thread.site));
    if (!all_meet(base, lanes, thread.mask, thread)) continue;
    complete(base, thread.mask);
    progress = true;
  }
  return progress;
}

// Nothing is ready: completes warp operations, else the barrier of the block, else says why nothing can move. False
// when every thread has returned.
bool resolve_block() {
  bool progress = false;
  for (unsigned w = 0; w * 32 < machine.threads.size(); ++w) progress |= resolve_warp(w);
  if (progress) return true;
  const Thread* first = nullptr;
  for (unsigned t = 0; t < machine.threads.size(); ++t) {
    const Thread& thread = *machine.threads[t];
    if (thread.state == State::kDone) continue;
    if (first == nullptr) first = &thread;
    if (thread.state == State::kInWarpOperation || !same(first->site, thread.site)) {
      throw Error("threads wait for one another or at different barriers: " + where(first->site) + " and " +
                  name_of(t) + " at " + where(thread.site));
    }
  }
  if (first == nullptr) return false;
  for (unsigned t = 0; t < machine.threads.size(); ++t) {
    if (machine.threads[t]->state == State::kDone) {
      throw Error(name_of(t) + " has returned, and others wait at the barrier at " + where(first->site));
    }
  }
  for (Thread* thread : machine.threads) thread->state = State::kReady;
  return true;
}

// Ends the threads that have not returned; their frames are left as they are.
void cancel() {
  machine.cancelled = true;
  for (unsigned t = 0; t < machine.threads.size(); ++t) {
    if (machine.threads[t]->state != State::kDone) go_on(t);
  }
  acquire_order(&machine.kernel_ends);  // what they allocated is freed on the way out
}

void run_block(unsigned threads, std::mt19937_64& random) {
  machine.threads.assign(threads, nullptr);
  machine.warps.resize((threads + 31) / 32);
  for (unsigned t = 0; t < threads; ++t) machine.threads[t] = prepare(machine.identity * kMaxThreads + t);
  machine.cancelled = false, ++machine.block_number;
  release_order(&machine.kernel_begins);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (options().schedule == Schedule::kReverse) std::reverse(order.begin(), order.end());
  try {
    do {
      if (options().schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), random);
      for (const unsigned t : order) {
        if (machine.threads[t]->state == State::kReady) go_on(t);
        if (machine.failure.empty()) continue;
        acquire_order(&machine.kernel_ends);  // of the thread that wrote it
        throw Error(machine.failure);
      }
    } while (resolve_block());
    if (const unsigned t = first_of_other_products(threads); t < threads) {
      throw Error(name_of(t) + " asks for other products than its warpgroup");
    }
  } catch (const Error&) {
    cancel();
    throw;
  }
}

// Static shared memory is thread_local. The detector would take its use by two blocks on one thread for a race.
void run_apart(const std::function<void()>& work) {
  if (!SIMT_TSAN) return work();
  std::exception_ptr error;
  std::thread([&] {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

void check_sizes(const dim3& grid, const dim3& block, size_t shared_bytes) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64)
    throw Error("a block of " + std::to_string(threads) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Error("a grid of (" + std::to_string(grid.x) + "," + std::to_string(grid.y) + "," + std::to_string(grid.z) +
                ") blocks");
  }
  if (shared_bytes > devices().shared_bytes) {
    throw Error(std::to_string(shared_bytes) + " bytes of dynamic shared memory; " +
                std::to_string(devices().shared_bytes) + " are possible");
  }
}

Options options_from_environment() {
  const char* text = std::getenv("SFFN_SIMT_SCHEDULE");
  const std::string wanted = text == nullptr ? "forward" : text;
  if (wanted == "forward") return {Schedule::kForward};
  if (wanted == "reverse") return {Schedule::kReverse};
  if (wanted.starts_with("random")) {
    return {Schedule::kRandom, wanted.size() > 7 ? std::strtoull(wanted.c_str() + 7, nullptr, 10) : 1};
  }
  throw Error("SFFN_SIMT_SCHEDULE is \"" + wanted + "\"; forward, reverse and random[:SEED] are known");
}

}  // namespace

Options& options() {
  static Options chosen = options_from_environment();
  return chosen;
}

void run_grid(const dim3& grid, const dim3& block, size_t shared_bytes, const void* address,
              const std::function<void()>& kernel) {
  check_sizes(grid, block, shared_bytes);
  const std::lock_guard<std::mutex> lock(machine.lock);
  const DeviceMemoryAccess access;
  ++record.launches[address];
  gridDim = grid, blockDim = block;
  machine.kernel = &kernel, machine.shared_bytes = shared_bytes, machine.failure.clear();
  std::vector<unsigned> order(size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(options().seed);
  if (options().schedule == Schedule::kReverse) std::reverse(order.begin(), order.end());
  if (options().schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), random);
  std::vector<Block> blocks(SIMT_TSAN ? order.size() : 1);
  for (size_t n = 0; n < order.size(); ++n) {
    blockIdx = {order[n] % grid.x, order[n] / grid.x % grid.y, order[n] / (grid.x * grid.y)};
    machine.block = &blocks[SIMT_TSAN ? n : 0];
    machine.block->shared.reset(new std::byte[shared_bytes]);  // of exactly the size: AddressSanitizer sees its ends
    std::memset(machine.block->shared.get(), 0xff, shared_bytes);  // NaN
    machine.identity = n % kIdentities;
    run_apart([&] { run_block(block.x * block.y * block.z, random); });
  }
  acquire_order(&machine.kernel_ends);
}

std::map<const void*, int64_t> launches() {
  const std::lock_guard<std::mutex> lock(machine.lock);
  return record.launches;
}

void block_barrier(const Site& site) {
  Thread& thread = *machine.threads[machine.current];
  thread.state = State::kAtBarrier, thread.site = site;
  void* point = order_point(0);
  release_order(point);
  pause_thread();
  acquire_order(point);
}

uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int source, const Site& site) {
  Thread& thread = *machine.threads[machine.current];
  thread.state = State::kInWarpOperation, thread.operation = operation, thread.mask = mask;
  thread.value = value, thread.source = source, thread.site = site;
  void* point = operation == WarpOperation::kBarrier ? order_point(mask) : nullptr;  // the others do not order memory
  if (point != nullptr) release_order(point);
  pause_thread();
  if (point != nullptr) acquire_order(point);
  return thread.result;
}

const std::byte* gather_warp(const void* data, size_t bytes, const Site& site) {
  Thread& thread = *machine.threads[machine.current];
  if (bytes > kGatherBytes) fail("gathers more than 64 bytes a lane", site);
  thread.data = data, thread.bytes = bytes;
  warp_operation(WarpOperation::kGather, ~0u, 0, 0, site);
  return machine.warps[machine.current / 32].gathered;
}

int lane() { return static_cast<int>(machine.current % 32); }
unsigned thread_number() { return machine.current; }
uint64_t block_number() { return machine.block_number; }
unsigned identity() { return machine.identity; }
void* dynamic_shared_memory() { return machine.block->shared.get(); }
size_t dynamic_shared_bytes() { return machine.shared_bytes; }

void fail(const char* what, const Site& site) {
  machine.failure = name_of(machine.current) + ": " + what + " at " + where(site);
  finish_thread();
}

}  // namespace simt
