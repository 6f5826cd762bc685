// The kernels that measure a GPU do what they say: a rate of something else would be no ceiling.
#if SFFN_HAS_CUDA
#include "kernels/cuda/ceilings.h"

#include "core/buffer.h"
#include "core/dtype.h"
#include "kernels/cuda/runtime.h"
#include "support/catch.h"

#include <cstring>
#include <vector>

using namespace sffn;

namespace {

constexpr int64_t kWords = cuda::kCeilingRowBytes / 16;

class OnDevice {
 public:
  template <class T>
  OnDevice(Stream& stream, const Shape& shape, DType dtype, const std::vector<T>& values)
      : stream_(stream), buffer_(cuda_runtime(), shape, dtype), tensor_(buffer_.tensor(shape, dtype)) {
    REQUIRE(values.size() * sizeof(T) == tensor_.bytes());
    stream.copy_to_device(tensor_, values.data());
    stream.synchronize();
  }
  const Tensor& tensor() const { return tensor_; }
  template <class T>
  std::vector<T> values() const {
    std::vector<T> result(tensor_.bytes() / sizeof(T));
    stream_.copy_to_host(result.data(), tensor_);
    stream_.synchronize();
    return result;
  }

 private:
  Stream& stream_;
  Buffer buffer_;
  Tensor tensor_;
};

std::vector<int32_t> some_rows(int64_t count, int64_t rows) {
  std::vector<int32_t> index;
  for (int64_t i = 0; i < count; ++i) index.push_back(static_cast<int32_t>((i * 7 + 3) % rows));
  return index;
}

}  // namespace

// Kills: rows that are skipped or read twice, words beyond the row.
TEST_CASE("reading rows reads each row that is named, whole", "[ops][ceilings]") {
  constexpr int64_t kRows = 5, kCount = cuda::kReaders + 1000;
  Stream stream(cuda_runtime());
  std::vector<uint32_t> words(kRows * kWords * 4);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i * 2654435761u);
  const std::vector<int32_t> index = some_rows(kCount, kRows);
  const OnDevice rows(stream, {kRows, kWords * 4}, DType::kF32, words);
  const OnDevice chosen(stream, {kCount}, DType::kI32, index);
  const OnDevice seen(stream, {cuda::kReaders, 128}, DType::kI32, std::vector<uint32_t>(cuda::kReaders * 128));
  cuda::read_rows(stream, seen.tensor(), rows.tensor(), chosen.tensor());
  std::vector<uint32_t> expected(cuda::kReaders * 128);
  for (int64_t i = 0; i < kCount; ++i) {
    for (int64_t word = 0; word < kWords * 4; ++word) {
      expected[static_cast<size_t>(i % cuda::kReaders * 128 + word % 128)] ^=
          words[static_cast<size_t>(index[static_cast<size_t>(i)] * kWords * 4 + word)];
    }
  }
  CHECK(seen.values<uint32_t>() == expected);
}

namespace {

// Small integers: their sums are exact in any order.
template <class T>
void check_added_rows(DType dtype, cuda::RowReduction reduction) {
  constexpr int64_t kRows = 2047, kFrom = 3, kCount = cuda::kReaders + 100;
  constexpr auto kColumns = cuda::kCeilingRowBytes / static_cast<int64_t>(sizeof(T));
  Stream stream(cuda_runtime());
  std::vector<T> before(kRows * kColumns), terms(kFrom * kColumns);
  std::vector<float> expected(before.size());
  for (size_t i = 0; i < before.size(); ++i) expected[i] = before[i] = static_cast<float>(i % 5);
  for (size_t i = 0; i < terms.size(); ++i) terms[i] = static_cast<float>(i % 3);
  const std::vector<int32_t> index = some_rows(kCount, kRows);
  const OnDevice y(stream, {kRows, kColumns}, dtype, before), x(stream, {kFrom, kColumns}, dtype, terms);
  const OnDevice chosen(stream, {kCount}, DType::kI32, index);
  cuda::add_rows(stream, y.tensor(), x.tensor(), chosen.tensor(), reduction);
  for (int64_t i = 0; i < kCount; ++i) {
    const auto to = static_cast<size_t>(index[static_cast<size_t>(i)] * kColumns);
    const auto from = static_cast<size_t>(i % cuda::kReaders % kFrom * kColumns);
    for (size_t c = 0; c < kColumns; ++c) expected[to + c] += static_cast<float>(terms[from + c]);
  }
  const std::vector<T> sums = y.values<T>();
  size_t wrong = 0;
  for (size_t i = 0; i < sums.size(); ++i) wrong += static_cast<float>(sums[i]) != expected[i];
  CHECK(wrong == 0);
}

}  // namespace

// Kills: a word of a row that is not added or added twice, a type taken for the other, a row of another warp.
TEST_CASE("adding rows in L2 adds each of them once", "[ops][ceilings]") {
  Stream stream(cuda_runtime());
  if (!cuda::can_add_rows(stream)) return;  // before compute capability 9.0
  for (const auto reduction : {cuda::RowReduction::kVector, cuda::RowReduction::kBulk}) {
    check_added_rows<float>(DType::kF32, reduction);
    check_added_rows<bfloat16>(DType::kBF16, reduction);
  }
}
#endif
