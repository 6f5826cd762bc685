// Streams, events and graphs of the executor's device do what CUDA's must, and no more than CUDA's may.
#include "core/stream.h"

#include "core/buffer.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/runtime.h"
#include "support/catch.h"

#include <cstdint>

using namespace sffn;

namespace {

// An int on the device, and its copies.
class DeviceInt {
 public:
  explicit DeviceInt(int value) : buffer_(cuda_runtime(), sizeof value) {
    Stream stream(cuda_runtime());
    put(stream, &value);
    stream.synchronize();
  }
  void put(Stream& stream, const int* host) {
    cuda_runtime().copy_to_device(stream.native(), buffer_.data(), host, sizeof *host);
  }
  void get(Stream& stream, int* host) const {
    cuda_runtime().copy_to_host(stream.native(), host, buffer_.data(), sizeof *host);
  }
  int value() const {
    Stream stream(cuda_runtime());
    int host = 0;
    get(stream, &host);
    stream.synchronize();
    return host;
  }

 private:
  Buffer buffer_;
};

}  // namespace

// Kills: streams that wait for one another without being told, so that a program which forgets to wait works here.
TEST_CASE("a stream sees another's work only behind an event", "[simt]") {
  DeviceInt x(1);
  Stream writer(cuda_runtime()), reader(cuda_runtime());
  const int two = 2, three = 3;
  int early = 0, late = 0;
  x.put(writer, &two);
  x.get(reader, &early);
  reader.synchronize();
  CHECK(early == 1);
  x.put(writer, &three);
  Event written(cuda_runtime());
  written.record(writer);
  written.hold(reader);
  x.get(reader, &late);
  reader.synchronize();
  CHECK(late == 3);
}

// Kills: a host that waits for an event and gets what was put on the stream behind it, or not all before it.
TEST_CASE("waiting for an event waits for what came before it and nothing else", "[simt]") {
  DeviceInt x(1), y(1);
  Stream stream(cuda_runtime());
  const int two = 2;
  x.put(stream, &two);
  Event between(cuda_runtime());
  between.record(stream);
  y.put(stream, &two);
  between.wait();
  CHECK(x.value() == 2);
  CHECK(y.value() == 1);
  stream.synchronize();
  CHECK(y.value() == 2);
}

// Kills: page-locked memory read when the copy is asked for, so that a host which overwrites it too early works here.
TEST_CASE("a copy from page-locked memory reads it when its turn comes", "[simt]") {
  DeviceInt x(1);
  const HostBuffer memory(cuda_runtime(), sizeof(int));
  auto* host = reinterpret_cast<int*>(memory.data());
  Stream stream(cuda_runtime());
  *host = 2;
  x.put(stream, host);
  *host = 3;
  stream.synchronize();
  CHECK(x.value() == 3);
}

// Kills: work that runs while it is recorded, a graph that runs once, or with the values of the recording.
TEST_CASE("a replay runs its work each time, on what is in memory then", "[simt]") {
  DeviceInt x(0);
  const HostBuffer memory(cuda_runtime(), sizeof(int));
  auto* host = reinterpret_cast<int*>(memory.data());
  Stream stream(cuda_runtime());
  Replay replay;
  int calls = 0;
  for (int i = 1; i <= 4; ++i) {
    *host = 10 * i;
    replay.run(stream, [&] {
      ++calls;
      x.put(stream, host);
    });
    stream.synchronize();
    CHECK(x.value() == 10 * i);
  }
  CHECK(calls == 2);
}

// Kills: an allocation or a wait that a recording lets through, and that a GPU would refuse.
TEST_CASE("nothing waits or allocates while work is recorded", "[simt]") {
  Stream stream(cuda_runtime());
  const auto record = [&](auto&& work) { (void)cuda_runtime().capture(stream.native(), work); };
  CHECK_THROWS_AS(record([&] { stream.synchronize(); }), RunError);
  CHECK_THROWS_AS(record([&] { const Buffer memory(cuda_runtime(), 16); }), RunError);
  CHECK_THROWS_AS(record([&] { (void)cuda::native(stream).workspace(1 << 20); }), RunError);
  int host = 0;
  const DeviceInt x(1);
  CHECK_THROWS_AS(record([&] { x.get(stream, &host); }), RunError);
  CHECK_NOTHROW(record([&] {}));
}

// Kills: a second stream whose work is left out of the recording, or runs while it goes on.
TEST_CASE("a stream that waits for a recorded one is recorded with it", "[simt]") {
  DeviceInt x(0);
  const HostBuffer memory(cuda_runtime(), sizeof(int));
  auto* host = reinterpret_cast<int*>(memory.data());
  Stream stream(cuda_runtime()), other(cuda_runtime());
  Event begin(cuda_runtime()), end(cuda_runtime());
  const auto graph = cuda_runtime().capture(stream.native(), [&] {
    begin.record(stream);
    begin.hold(other);
    x.put(other, host);
    end.record(other);
    end.hold(stream);
  });
  *host = 7;
  other.synchronize();
  stream.synchronize();
  CHECK(x.value() == 0);
  cuda_runtime().launch(stream.native(), *graph);
  stream.synchronize();
  CHECK(x.value() == 7);
}
