#include "kernels/ops.h"
#include "support/catch.h"
#include "support/host_tensor.h"

using namespace sffn;
using namespace sffn::test;

namespace {

struct Counted final : Background {
  void advance() override {
    ++times;
    if (forgets != nullptr) forgets->forget(*this);
  }
  int times = 0;
  Stream* forgets = nullptr;
};

}  // namespace

// Kills: messages that move on within the calls of a communicator alone, work that is looked after when it has ended,
// other work that is passed over when one ends.
TEST_CASE("work beside a stream advances before every op of it until it is forgotten, and for no clock", "[ops]") {
  Stream stream(cpu_runtime()), other(cpu_runtime());
  HostTensor x(DType::kF32, {4}, {1, 2, 3, 4}), clock(DType::kF64, {2}, {0, 0});
  Counted lasting, ending;
  ending.forgets = &stream;
  stream.look_after(ending);
  stream.look_after(lasting);
  ops::fill_zero(other, x);
  CHECK(lasting.times == 0);
  ops::fill_zero(stream, x);
  CHECK((ending.times == 1 && lasting.times == 1));
  ops::start_clock(stream, clock);
  ops::stop_clock(stream, clock);
  ops::fill_zero(stream, x);
  CHECK((ending.times == 1 && lasting.times == 2));
  stream.forget(lasting);
  ops::fill_zero(stream, x);
  CHECK(lasting.times == 2);
}
