#pragma once
#include "comm/communicator.h"
#include "train/checkpoint/checkpoint.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sffn {

std::vector<int64_t> dims_of(const Shape& shape);

// Which rank holds which elements of which tensor: the same on every rank.
struct PieceTable {
  struct Span {
    int64_t begin = 0, end = 0;
    int rank = 0;
  };
  struct Entry {
    std::vector<int64_t> shape;
    DType dtype = DType::kF32;
    std::vector<Span> spans;  // by begin, then by rank; none is empty
    int64_t numel() const;
  };
  std::map<std::string, Entry> tensors;
};

// Collective. Throws RunError naming the tensor when ranks differ in its shape or type, or a range lies outside of it.
PieceTable gather_pieces(Communicator& comm, const std::vector<Piece>& pieces);

// The spans to take so that every element comes once; rank 0's own where it has them. Throws RunError naming the first
// element nobody holds.
std::vector<PieceTable::Span> cover(const std::string& name, const PieceTable::Entry& entry);

// Throws RunError naming the tensor unless every element is held by exactly one rank.
void check_partition(const PieceTable& table);

}  // namespace sffn
