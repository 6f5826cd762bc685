#include "comm/tree_check.h"

#include "core/buffer.h"
#include "core/random.h"

#include <complex>
#include <cstring>

namespace sffn::test {

// Magnitudes over several decades: rounding then depends on the order everywhere.
double leaf_value(int64_t leaf, int64_t i) {
  const RandomKey key{7, static_cast<uint64_t>(leaf)};
  const Random4 bits = philox(key, static_cast<uint64_t>(i));
  return (uniform_from_bits(bits[0]) - 0.5 + uniform_from_bits(bits[1]) * 0x1p-30) * (1 << bits[2] % 12);
}

namespace {

std::vector<Tensor> buffers_of(const Buffer& memory, int64_t count, int64_t flat, DType dtype, Device device) {
  std::vector<Tensor> buffers;
  const size_t bytes = static_cast<size_t>(flat) * size_of(dtype);
  for (int64_t i = 0; i < count; ++i) {
    buffers.emplace_back(static_cast<std::byte*>(memory.data()) + static_cast<size_t>(i) * bytes, Shape{flat}, dtype,
                         device);
  }
  return buffers;
}

template <class T>
void write_leaf(const Tensor& gradient, int64_t leaf) {
  if (gradient.device().kind == Device::Kind::kMeta) return;
  for (int64_t i = 0; i < gradient.numel(); ++i) gradient.data<T>()[i] += static_cast<T>(leaf_value(leaf, i));
}

template <class T>
size_t run(Communicator& comm, DeviceRuntime& runtime, const TreeCase& c, size_t scratch_bytes,
           std::vector<T>* result) {
  Stream stream(runtime);
  const SumTree tree(c.shares, c.deterministic);
  const DType dtype = DTypeOf<T>::value;
  const auto own = static_cast<size_t>(comm.rank());
  const Buffer memory(runtime, {tree.buffers(comm.rank()) * c.flat}, dtype);
  const Buffer result_memory(runtime, {c.flat}, dtype);
  if (!stream.is_meta() && memory.bytes() > 0) std::memset(memory.data(), 0xff, memory.bytes());
  TreeFold fold(tree, comm.rank(), buffers_of(memory, tree.buffers(comm.rank()), c.flat, dtype, runtime.device()));
  for (int step = 0; step < 2; ++step) {  // the second one must not see the first
    fold.start();
    for (int64_t leaf = c.shares[own].first; leaf < c.shares[own].last; ++leaf) {
      write_leaf<T>(fold.next(stream), leaf);
      fold.push(stream);
    }
  }
  Arena scratch(runtime, "scratch", scratch_bytes);
  if (!stream.is_meta()) scratch.poison();
  const std::vector<FlatRange> owned = uneven_ranges(c.flat, comm.size());
  const Tensor all = result_memory.tensor({c.flat}, dtype);
  const std::vector<Tensor> partials = fold.partials();
  const Tensor apart = all.slice(owned[own].offset, owned[own].count);
  const Tensor out =
      c.out_in_partial && !partials.empty() ? partials[0].slice(owned[own].offset, owned[own].count) : apart;
  tree_reduce_scatter(stream, comm, scratch, tree, out, partials, owned, c.exchange_bytes);
  std::vector<int64_t> counts;
  for (const FlatRange& range : owned) counts.push_back(range.count);
  comm.all_gather(stream, all, out, counts);
  if (result != nullptr) result->assign(all.data<T>(), all.data<T>() + c.flat);
  return scratch.high_water();
}

}  // namespace

std::vector<FlatRange> uneven_ranges(int64_t flat, int ranks) {
  std::vector<FlatRange> ranges;
  int64_t offset = 0;
  for (int r = 0; r < ranks; ++r) {
    const int64_t rest = flat - offset;
    const int64_t count = r == ranks - 1 ? rest : r % 3 == 1 ? 0 : std::min(rest, flat / ranks + r);
    ranges.push_back({offset, count});
    offset += count;
  }
  return ranges;
}

template <class T>
std::vector<T> summed_gradient(Communicator& comm, const TreeCase& c) {
  const size_t scratch_bytes = run<T>(comm, meta_runtime(), c, size_t{1} << 30, nullptr);
  std::vector<T> result;
  run<T>(comm, cpu_runtime(), c, scratch_bytes, &result);
  return result;
}

template std::vector<float> summed_gradient(Communicator&, const TreeCase&);
template std::vector<double> summed_gradient(Communicator&, const TreeCase&);
template std::vector<std::complex<double>> summed_gradient(Communicator&, const TreeCase&);

}  // namespace sffn::test
