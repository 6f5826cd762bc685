#include "comm/conformance.h"

#include "core/buffer.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace sffn::test {
namespace {

// Legend: R ranks, C columns.
constexpr int64_t kColumns = 3;
using Counts = std::vector<int64_t>;

// Element `index` of what rank `from` has for rank `to`; small integers, exact in every type.
float value_of(int from, int to, int64_t index) { return static_cast<float>((from * 8 + to + index * 7) % 251); }

// Rows on the stream's device, and the values that the host puts there and gets back.
template <class T>
struct Rows {
  Rows(Stream& on, int64_t rows)
      : buffer(on.runtime(), {rows, kColumns}, DTypeOf<T>::value),
        tensor(buffer.tensor({rows, kColumns}, DTypeOf<T>::value)),
        host(static_cast<size_t>(rows * kColumns), static_cast<T>(-1.0f)),
        stream(on) {
    put();
  }
  void put() { stream.copy_to_device(tensor, host.data()); }
  T* values() {
    stream.copy_to_host(host.data(), tensor);
    stream.synchronize();
    return host.data();
  }
  Buffer buffer;
  Tensor tensor;
  std::vector<T> host;
  Stream& stream;
};

template <class T>
void expect(const T& found, float expected, const char* call, int rank, int64_t index) {
  SFFN_CHECK(found == static_cast<T>(expected), call, " on rank ", rank, ", element ", index, ": expected ", expected);
}

int64_t sum(const Counts& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

// Uneven counts with zeros among them; variant 0 has nothing at all.
Counts counts_of(int variant, int ranks) {
  Counts counts;
  for (int r = 0; r < ranks; ++r) counts.push_back(variant == 0 ? 0 : (r * 5 + variant) % (3 + variant));
  return counts;
}

template <class T>
void check_all_gather_of(Communicator& comm, Stream& stream, int variant, bool in_place) {
  const Counts counts = counts_of(variant, comm.size());
  const int64_t before = sum(Counts(counts.begin(), counts.begin() + comm.rank()));
  const int64_t own = counts[static_cast<size_t>(comm.rank())];
  Rows<T> all(stream, sum(counts)), apart(stream, own);
  const Tensor mine = in_place ? all.tensor.slice(before, own) : apart.tensor;
  T* const given = in_place ? all.host.data() + before * kColumns : apart.host.data();
  for (int64_t i = 0; i < mine.numel(); ++i) {
    given[i] = static_cast<T>(value_of(comm.rank(), 0, before * kColumns + i));
  }
  in_place ? all.put() : apart.put();
  comm.all_gather(stream, all.tensor, mine, counts);
  const T* found = all.values();
  int64_t index = 0;
  for (int r = 0; r < comm.size(); ++r) {
    for (int64_t i = 0; i < counts[static_cast<size_t>(r)] * kColumns; ++i, ++index) {
      expect(found[index], value_of(r, 0, index), "all_gather", comm.rank(), index);
    }
  }
}

// Rank `from` sends `to` this many rows: differs for every pair, often none, none at all to the last rank.
int64_t rows_between(int from, int to, int variant, int ranks) {
  return to == ranks - 1 && ranks > 1 ? 0 : (from * 3 + to * 5 + variant) % (2 + variant);
}

template <class T>
void check_all_to_all_of(Communicator& comm, Stream& stream, int variant) {
  const int ranks = comm.size(), rank = comm.rank();
  Counts send_counts, recv_counts;
  for (int r = 0; r < ranks; ++r) send_counts.push_back(rows_between(rank, r, variant, ranks));
  for (int r = 0; r < ranks; ++r) recv_counts.push_back(rows_between(r, rank, variant, ranks));
  Rows<T> send(stream, sum(send_counts)), recv(stream, sum(recv_counts));
  T* next = send.host.data();
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < send_counts[static_cast<size_t>(r)] * kColumns; ++i) {
      *next++ = static_cast<T>(value_of(rank, r, i));
    }
  }
  send.put();
  comm.all_to_all(stream, recv.tensor, recv_counts, send.tensor, send_counts);
  const T* found = recv.values();
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < recv_counts[static_cast<size_t>(r)] * kColumns; ++i) {
      expect(*found++, value_of(r, rank, i), "all_to_all", rank, i);
    }
  }
}

template <class T>
void check_broadcast_of(Communicator& comm, Stream& stream) {
  for (int root = 0; root < comm.size(); ++root) {
    for (const int64_t rows : {0, 1, 33}) {
      Rows<T> data(stream, rows);
      for (int64_t i = 0; i < rows * kColumns; ++i) {
        data.host[static_cast<size_t>(i)] = static_cast<T>(value_of(comm.rank(), 1, i));
      }
      data.put();
      comm.broadcast(stream, data.tensor, root);
      const T* found = data.values();
      for (int64_t i = 0; i < rows * kColumns; ++i) {
        expect(found[i], value_of(root, 1, i), "broadcast", comm.rank(), i);
      }
    }
  }
}

template <class T>
void check_tensors(Communicator& comm, DeviceRuntime& runtime) {
  Stream stream(runtime);
  for (int variant = 0; variant < 4; ++variant) {
    check_all_gather_of<T>(comm, stream, variant, false);
    check_all_gather_of<T>(comm, stream, variant, true);
    check_all_to_all_of<T>(comm, stream, variant);
  }
  check_broadcast_of<T>(comm, stream);
}

void check_values(Communicator& comm) {
  struct Pair {
    int rank;
    double value;
  };
  const std::vector<Pair> all = comm.gather_values(Pair{comm.rank(), comm.rank() * 0.5});
  SFFN_CHECK(static_cast<int>(all.size()) == comm.size(), all.size(), " values");
  for (int r = 0; r < comm.size(); ++r) {
    SFFN_CHECK(all[static_cast<size_t>(r)].rank == r && all[static_cast<size_t>(r)].value == r * 0.5,
               "gather_values: rank ", r, "'s value is not its own");
  }
  SFFN_CHECK(comm.max_value(comm.rank()) == comm.size() - 1, "max_value");
  SFFN_CHECK(comm.min_value(-comm.rank()) == 1 - comm.size(), "min_value");
  SFFN_CHECK(comm.all_true(true), "all_true of true");
  SFFN_CHECK(!comm.all_true(comm.rank() != comm.size() - 1), "all_true misses the last rank's false");
  std::string text = cat("from ", comm.rank());
  comm.broadcast_bytes(text.data(), text.size(), comm.size() - 1);
  SFFN_CHECK(text == cat("from ", comm.size() - 1), "broadcast_bytes: ", text);
  comm.barrier();
}

// Ranks in groups of equal parity, in reversed order; then each group in pairs.
void check_split(Communicator& comm, DeviceRuntime& runtime) {
  const auto half = comm.split(comm.rank() % 2 == 0 ? -7 : 1000, -comm.rank());
  const int expected_size = (comm.size() + 1 - comm.rank() % 2) / 2;
  SFFN_CHECK(half->size() == expected_size, "split: ", half->size(), " ranks, expected ", expected_size);
  SFFN_CHECK(half->rank() == expected_size - 1 - comm.rank() / 2, "split does not order by key");
  const std::vector<int> members = half->gather_values(comm.rank());
  for (int i = 0; i < half->size(); ++i) {
    SFFN_CHECK(members[static_cast<size_t>(i)] == comm.rank() % 2 + 2 * (half->size() - 1 - i), "split: wrong members");
  }
  const auto pair = half->split(half->rank() / 2, 0);
  SFFN_CHECK(pair->rank() == half->rank() % 2, "equal keys do not keep the order of ranks");
  check_tensors<float>(*half, runtime);
  check_values(*pair);
}

// No one may answer for the memory of the meta device, and nobody waits there.
void check_meta(Communicator& comm) {
  Stream stream(meta_runtime());
  const Buffer memory(meta_runtime(), 1 << 20);
  const Counts counts(static_cast<size_t>(comm.size()), 2);
  const Tensor all = memory.tensor({2 * comm.size(), 4}, DType::kF32);
  const Tensor other(static_cast<std::byte*>(all.raw()) + (1 << 19), all.shape(), DType::kF32, all.device());
  if (comm.rank() == 0) {  // not a collective there
    comm.all_gather(stream, all, all.slice(0, 2), counts);
    comm.all_to_all(stream, all, counts, other, counts);
    comm.broadcast(stream, all, 0);
  }
}

template <class Call>
void expect_error(const char* what, Call&& call) {
  try {
    call();
  } catch (const RunError&) {
    return;
  }
  throw RunError("conformance", cat(what, " was accepted"));
}

// Refused before anything moves, on every rank alike.
void check_bad_arguments(Communicator& comm, DeviceRuntime& runtime) {
  Stream stream(runtime);
  Rows<float> a(stream, comm.size()), b(stream, comm.size()), more(stream, comm.size() + 1);
  Rows<double> wide(stream, comm.size());
  Counts ones(static_cast<size_t>(comm.size()), 1), negative = ones;
  negative[0] = -1;
  expect_error("a sum of counts beyond the tensor",
               [&] { comm.all_to_all(stream, a.tensor, ones, more.tensor, ones); });
  expect_error("a negative count", [&] { comm.all_to_all(stream, a.tensor, negative, b.tensor, ones); });
  expect_error("another dtype", [&] { comm.all_to_all(stream, a.tensor, ones, wide.tensor, ones); });
  expect_error("overlapping memory", [&] { comm.all_to_all(stream, a.tensor, ones, a.tensor, ones); });
  expect_error("a part of another size", [&] { comm.all_gather(stream, a.tensor, more.tensor, ones); });
  expect_error("a root that is not there", [&] { comm.broadcast(stream, a.tensor, comm.size()); });
  if (comm.size() > 1) {
    const Tensor wrong_place = a.tensor.slice((comm.rank() + 1) % comm.size(), 1);
    expect_error("a part in another rank's place", [&] { comm.all_gather(stream, a.tensor, wrong_place, ones); });
  }
}

}  // namespace

void check_halves(Communicator& comm, int64_t rows, DeviceRuntime& runtime) {
  Stream stream(runtime);
  const int ranks = comm.size(), rank = comm.rank();
  const Counts each(static_cast<size_t>(ranks), rows);
  Rows<float> all(stream, ranks * rows), mine(stream, rows), send(stream, ranks * rows), recv(stream, ranks * rows);
  for (int64_t i = 0; i < rows * kColumns; ++i) {
    mine.host[static_cast<size_t>(i)] = value_of(rank, 0, i);
    for (int r = 0; r < ranks; ++r) send.host[static_cast<size_t>(r * rows * kColumns + i)] = value_of(rank, r, i);
  }
  mine.put(), send.put();
  const auto gather = comm.begin_all_gather(stream, all.tensor, mine.tensor, each);
  const auto exchange = comm.begin_all_to_all(stream, recv.tensor, each, send.tensor, each);
  Rows<float> beside(stream, 1);
  beside.put();
  expect(beside.values()[0], -1, "work beside a transfer", rank, 0);
  SFFN_CHECK(comm.max_value(rank) == ranks - 1, "max_value beside a transfer");
  gather->finish(stream);
  exchange->finish(stream);
  const float *gathered = all.values(), *received = recv.values();
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < rows * kColumns; ++i) {
      expect(*gathered++, value_of(r, 0, i), "begin_all_gather", rank, i);
      expect(*received++, value_of(r, rank, i), "begin_all_to_all", rank, i);
    }
  }
}

void check_conformance(Communicator& comm, DeviceRuntime& runtime) {
  check_tensors<float>(comm, runtime);
  check_tensors<bfloat16>(comm, runtime);
  check_tensors<double>(comm, runtime);
  for (const int64_t rows : {0, 1, 20}) check_halves(comm, rows, runtime);
  check_values(comm);
  check_split(comm, runtime);
  check_meta(comm);
  check_bad_arguments(comm, runtime);
}

}  // namespace sffn::test
