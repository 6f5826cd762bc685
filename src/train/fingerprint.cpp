#include "train/fingerprint.h"

#include "comm/communicator.h"
#include "core/hash.h"
#include "core/stream.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

namespace sffn {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kPieceElements = int64_t{1} << 20;  // that come from a device at once

// Every bit of seed, place and word moves every bit of the result: multiply and shift, twice.
uint64_t mix(uint64_t seed, uint64_t place, uint32_t word) {
  uint64_t x = (seed ^ place * 0x9e3779b97f4a7c15u) + uint64_t{word} * 0xd1b54a32d192ed03u;
  x = (x ^ (x >> 32)) * 0xaef17502108ef2d9u;
  x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
  return x ^ (x >> 32);
}

uint64_t sum_of(uint64_t seed, uint64_t first_word, const std::byte* words, int64_t count) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t word;
    std::memcpy(&word, words + i * kWordBytes, kWordBytes);
    sum += mix(seed, first_word + static_cast<uint64_t>(i), word);
  }
  return sum;
}

// Every rank adds up its share of the places, and all get all of them: each number travels twice, not once a rank.
void add_over_ranks(Communicator& ranks, std::vector<uint64_t>& numbers) {
  const int64_t R = ranks.size(), share = (static_cast<int64_t>(numbers.size()) + R - 1) / R;
  if (R == 1 || share == 0) return;
  const size_t count = numbers.size();
  numbers.resize(static_cast<size_t>(share * R));
  std::vector<uint64_t> parts(numbers.size());
  const auto rows = [&](std::vector<uint64_t>& of) {  // of 8 bytes, whatever they mean
    return Tensor(of.data(), {static_cast<int64_t>(of.size()), 2}, DType::kF32, Device::cpu());
  };
  Stream host(cpu_runtime());
  const std::vector<int64_t> counts(static_cast<size_t>(R), share);
  ranks.all_to_all(host, rows(parts), counts, rows(numbers), counts);
  const Tensor all = rows(numbers), mine = all.slice(ranks.rank() * share, share);
  auto* const sums = static_cast<uint64_t*>(mine.raw());
  for (int64_t i = 0; i < share; ++i) {
    sums[i] = 0;
    for (int64_t r = 0; r < R; ++r) sums[i] += parts[static_cast<size_t>(r * share + i)];
  }
  ranks.all_gather(host, all, mine, counts);
  numbers.resize(count);
}

}  // namespace

void FingerprintSums::add(Stream& stream, std::string_view name, const Tensor& part, int64_t first,
                          int64_t block_elements) {
  const uint64_t seed = hash128(name).low;
  const int64_t words = static_cast<int64_t>(size_of(part.dtype())) / kWordBytes;  // of an element
  std::vector<uint64_t>& sums = sums_.at(block_elements > 0 ? layer_of(name) : "");
  // Elements [element, element + count), block after block.
  const auto add_up = [&](const std::byte* data, int64_t element, int64_t count) {
    while (count > 0) {
      const int64_t block = block_elements > 0 ? element / block_elements : 0;
      const int64_t within = block_elements > 0 ? std::min(count, (block + 1) * block_elements - element) : count;
      sums.at(static_cast<size_t>(block)) += sum_of(seed, static_cast<uint64_t>(element * words), data, within * words);
      data += within * words * kWordBytes;
      element += within;
      count -= within;
    }
  };
  const Tensor flat = part.view({part.numel()});
  if (flat.device() == Device::cpu()) return add_up(static_cast<const std::byte*>(flat.raw()), first, flat.numel());
  std::vector<std::byte> host;
  for (int64_t at = 0; at < flat.numel(); at += kPieceElements) {
    const Tensor piece = flat.slice(at, std::min(kPieceElements, flat.numel() - at));
    host.resize(piece.bytes());
    stream.copy_to_host(host.data(), piece);
    stream.synchronize();
    add_up(host.data(), first + at, piece.numel());
  }
}

void FingerprintSums::expect(std::string_view name, int64_t blocks) {
  sums_[std::string(name)].resize(static_cast<size_t>(blocks));
}

Fingerprints FingerprintSums::total(Communicator& ranks) const {
  std::vector<uint64_t> numbers;
  for (const auto& [name, sums] : sums_) numbers.insert(numbers.end(), sums.begin(), sums.end());
  add_over_ranks(ranks, numbers);
  Fingerprints total = sums_;
  auto next = numbers.begin();
  for (auto& [name, sums] : total) {
    std::copy_n(next, sums.size(), sums.begin());
    next += static_cast<int64_t>(sums.size());
  }
  return total;
}

std::string layer_of(std::string_view parameter) {
  const size_t end = parameter.find(".ffn.");
  SFFN_CHECK(end != std::string_view::npos, parameter, " is of no feed-forward layer");
  const size_t begin = parameter.rfind(':', end);  // behind the name of a moment
  const size_t first = begin == std::string_view::npos ? 0 : begin + 1;
  return std::string(parameter.substr(first, end + std::string_view(".ffn").size() - first));
}

Json to_json(const Fingerprints& fingerprints) {
  Json json = Json::object();
  for (const auto& [name, numbers] : fingerprints) {
    Json list = Json::array();
    for (const uint64_t number : numbers) {
      char text[17];
      std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
      list.push_back(text);
    }
    json[name] = std::move(list);
  }
  return json;
}

Fingerprints fingerprints_from(const Json& json, const std::string& file) {
  const auto refuse = [&] { throw DamagedError(file, "\"fingerprints\" is not lists of 16 hexadecimal digits"); };
  if (!json.is_object()) refuse();
  Fingerprints fingerprints;
  for (const Json::Member& member : json.as_object()) {
    if (!member.value.is_array()) refuse();
    std::vector<uint64_t>& numbers = fingerprints[member.key];
    for (const Json& text : member.value.as_array()) {
      constexpr size_t kDigits = 16;
      uint64_t number = 0;
      if (!text.is_string() || text.as_string().size() != kDigits) refuse();
      const char* const end = text.as_string().data() + kDigits;
      const auto [parsed, error] = std::from_chars(text.as_string().data(), end, number, kDigits);
      if (error != std::errc() || parsed != end) refuse();
      numbers.push_back(number);
    }
  }
  return fingerprints;
}

std::string first_difference(const Fingerprints& found, const Fingerprints& expected) {
  for (const auto& [name, numbers] : expected) {
    const auto other = found.find(name);
    if (other == found.end() || other->second.size() != numbers.size()) return cat("the blocks of ", name);
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (other->second[i] == numbers[i]) continue;
      return name.empty() ? "a tensor outside of blocks" : cat("block ", i, " of ", name);
    }
  }
  return found.size() == expected.size() ? "" : "a layer with blocks";
}

}  // namespace sffn
