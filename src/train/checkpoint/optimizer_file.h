// optimizer-RRRRR-of-RRRRR.safetensors: the moments one rank held. Entry "NAME[BEGIN:END]" of shape [END - BEGIN]; the
// shapes of the whole tensors stand in the metadata under "shapes".
#pragma once
#include "core/safetensors.h"
#include "train/checkpoint/checkpoint.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace sffn {

struct OptimizerLayout {
  SafetensorsLayout layout;
  std::vector<const Piece*> pieces;  // in the order of the layout's entries
};
OptimizerLayout lay_out_optimizer(const std::vector<Piece>& moments, int rank, int ranks);

// All optimizer files of a step folder, read by tensor name and range. One file is open at a time: there may be more
// ranks than a process may have open files.
class OptimizerFiles {
 public:
  struct Span {
    int64_t begin = 0, end = 0;
    int file = 0;
    std::string entry;  // its name in the file
  };
  struct Moment {
    std::vector<int64_t> shape;
    std::vector<Span> spans;  // by begin; they cover the tensor without holes or overlaps
  };

  // Throws an Error of kDamaged when a file cannot be read or the ranges do not fit together.
  OptimizerFiles(std::string folder, int ranks);

  const std::map<std::string, Moment>& moments() const { return moments_; }
  // Fills pieces whose names and shapes are those of moments().
  void read(const std::vector<Piece>& pieces, const std::function<void()>& progress) const;

 private:
  using Shapes = std::map<std::string, std::vector<int64_t>>;
  SafetensorsFile open(int rank) const;
  void add_shapes(const SafetensorsFile& file, const Shapes& shapes);
  void add_entry(const SafetensorsFile& file, const SafetensorsEntry& entry, int rank, const Shapes& shapes);
  void check_tiling() const;
  std::string folder_;
  int ranks_;
  std::map<std::string, Moment> moments_;
};

// Fills elements [first, last) of the piece, a checksum block at a time. `entry` begins at element entry_first of the
// tensor.
void read_in_blocks(const SafetensorsFile& file, const SafetensorsEntry& entry, int64_t entry_first, const Piece& piece,
                    int64_t first, int64_t last, const std::function<void()>& progress);

}  // namespace sffn
