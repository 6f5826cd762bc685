// Numbers by which values are known again, wherever they are held:
//   fingerprint = Σ over 32-bit words  mix(tensor, place of the word in the whole tensor, word)  mod 2^64
// The sum is the same however ranks share the words, so a checkpoint that one layout of ranks wrote is compared with
// what another one has read; a block that is missing, there twice, or in another's place changes it.
#pragma once
#include "core/json.h"
#include "core/tensor.h"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

class Communicator;
class Stream;

// "layers.L.ffn": of each block of a sparse layer, all its tables together; "": of everything else.
using Fingerprints = std::map<std::string, std::vector<uint64_t>>;

class FingerprintSums {
 public:
  // Elements [first, first + part.numel()) of a tensor of this name, whose blocks have so many elements; 0: it has
  // none.
  void add(Stream&, std::string_view name, const Tensor& part, int64_t first, int64_t block_elements);
  // A layer that has blocks, on every rank alike, whether it holds some or not.
  void expect(std::string_view name, int64_t blocks);
  // Over all ranks. Collective.
  Fingerprints total(Communicator&) const;

 private:
  Fingerprints sums_{{"", {0}}};
};

// "layers.1.ffn.keys.weight" -> "layers.1.ffn"
std::string layer_of(std::string_view parameter);
// {"layers.1.ffn": ["0123456789abcdef", ...], "": [...]}. Throws DamagedError naming the file.
Json to_json(const Fingerprints&);
Fingerprints fingerprints_from(const Json&, const std::string& file);
// The first difference in words: "block 3 of layers.1.ffn"; empty: none.
std::string first_difference(const Fingerprints& found, const Fingerprints& expected);

}  // namespace sffn
