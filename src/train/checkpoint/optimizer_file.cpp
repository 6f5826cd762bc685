#include "train/checkpoint/optimizer_file.h"

#include "core/json.h"
#include "train/checkpoint/piece_table.h"
#include "train/checkpoint/record.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_map>

namespace sffn {
namespace {

std::string entry_name(const Piece& piece) { return cat(piece.name, "[", piece.begin, ":", piece.end, "]"); }

std::optional<int64_t> parse_integer(std::string_view digits) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < 0) return {};
  return value;
}

// Takes "NAME[BEGIN:END]" apart; false when it is not that.
bool parse_entry_name(std::string_view text, std::string& name, int64_t& begin, int64_t& end) {
  const size_t bracket = text.rfind('['), colon = text.rfind(':');
  if (bracket == text.npos || colon == text.npos || colon < bracket || !text.ends_with(']')) return false;
  const auto first = parse_integer(text.substr(bracket + 1, colon - bracket - 1));
  const auto last = parse_integer(text.substr(colon + 1, text.size() - colon - 2));
  if (!first || !last) return false;
  name = text.substr(0, bracket);
  begin = *first;
  end = *last;
  return true;
}

std::map<std::string, std::vector<int64_t>> shapes_of(const SafetensorsFile& file) {
  const auto text = file.metadata().find("shapes");
  if (text == file.metadata().end()) throw DamagedError(file.path(), "__metadata__ lacks \"shapes\"");
  const Json json = parse_json(text->second, file.path() + ": shapes", ExitCode::kDamaged);
  std::map<std::string, std::vector<int64_t>> shapes;
  if (!json.is_object()) throw DamagedError(file.path(), "\"shapes\" is not an object");
  for (const Json::Member& member : json.as_object()) {
    const std::string place = file.path() + ": shape of " + Json(member.key).dump();
    if (!member.value.is_array() || member.value.as_array().size() > SafetensorsFile::kMaxRank) {
      throw DamagedError(place, "is not an array of at most 8 integers");
    }
    int64_t numel = 1;
    std::vector<int64_t>& shape = shapes[member.key];
    for (const Json& dim : member.value.as_array()) {
      if (!dim.is_int() || dim.as_int() < 0 || __builtin_mul_overflow(numel, dim.as_int(), &numel)) {
        throw DamagedError(place, "is not made of integers whose product fits 63 bits");
      }
      shape.push_back(dim.as_int());
    }
  }
  return shapes;
}

int64_t numel_of(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

}  // namespace

OptimizerLayout lay_out_optimizer(const std::vector<Piece>& moments, int rank, int ranks) {
  std::vector<SafetensorsSpec> specs;
  std::unordered_map<std::string, const Piece*> by_name;
  std::map<std::string, Json> shapes;
  for (const Piece& piece : moments) {
    const std::vector<int64_t> dims = dims_of(piece.shape);
    shapes[piece.name] = Json::Array(dims.begin(), dims.end());
    if (piece.begin == piece.end) continue;
    specs.push_back({entry_name(piece), DType::kF32, {piece.end - piece.begin}});
    by_name[specs.back().name] = &piece;
  }
  Json::Object object;
  for (auto& [name, shape] : shapes) object.push_back({name, shape});
  OptimizerLayout result;
  result.layout = lay_out_safetensors(
      specs, {{"rank", std::to_string(rank)}, {"ranks", std::to_string(ranks)}, {"shapes", Json(object).dump()}});
  for (const SafetensorsEntry& entry : result.layout.entries) result.pieces.push_back(by_name.at(entry.name));
  return result;
}

OptimizerFiles::OptimizerFiles(std::string folder, int ranks) : folder_(std::move(folder)), ranks_(ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    const SafetensorsFile file = open(rank);
    const Shapes shapes = shapes_of(file);
    add_shapes(file, shapes);
    for (const SafetensorsEntry& entry : file.entries()) add_entry(file, entry, rank, shapes);
  }
  for (auto& [name, moment] : moments_) {
    std::sort(moment.spans.begin(), moment.spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  }
  check_tiling();
}

SafetensorsFile OptimizerFiles::open(int rank) const {
  return SafetensorsFile(File::open_beneath(folder_, optimizer_name(rank, ranks_)));
}

void OptimizerFiles::add_shapes(const SafetensorsFile& file, const Shapes& shapes) {
  for (const auto& [name, shape] : shapes) {
    const auto [place, is_new] = moments_.try_emplace(name, Moment{shape, {}});
    if (!is_new && place->second.shape != shape) {
      throw DamagedError(file.path(), "the shape of " + Json(name).dump() + " differs from another rank's");
    }
  }
}

void OptimizerFiles::add_entry(const SafetensorsFile& file, const SafetensorsEntry& entry, int rank,
                               const Shapes& shapes) {
  const std::string place = file.path() + ": tensor " + Json(entry.name).dump();
  std::string name;
  Span span{0, 0, rank, entry.name};
  if (!parse_entry_name(entry.name, name, span.begin, span.end) || !shapes.contains(name)) {
    throw DamagedError(place, "is not NAME[BEGIN:END] of a tensor in \"shapes\"");
  }
  const int64_t numel = numel_of(shapes.at(name));
  if (entry.dtype != "F32" || entry.shape.size() != 1 || span.begin > span.end || span.end > numel ||
      entry.shape[0] != span.end - span.begin) {
    throw DamagedError(place, cat("does not hold that range of ", numel, " elements as F32"));
  }
  if (span.begin < span.end) moments_.at(name).spans.push_back(span);
}

void OptimizerFiles::check_tiling() const {
  for (const auto& [name, moment] : moments_) {
    const std::string place = folder_ + ": " + Json(name).dump();
    int64_t next = 0;
    for (const Span& span : moment.spans) {
      if (span.begin > next) throw DamagedError(place, cat("element ", next, " is stored nowhere"));
      if (span.begin < next) throw DamagedError(place, cat("element ", span.begin, " is stored twice"));
      next = span.end;
    }
    if (next != numel_of(moment.shape)) throw DamagedError(place, cat("element ", next, " is stored nowhere"));
  }
}

void OptimizerFiles::read(const std::vector<Piece>& pieces, const std::function<void()>& progress) const {
  for (int rank = 0; rank < ranks_; ++rank) {
    std::optional<SafetensorsFile> file;
    for (const Piece& piece : pieces) {
      for (const Span& span : moments_.at(piece.name).spans) {
        const int64_t first = std::max(piece.begin, span.begin), last = std::min(piece.end, span.end);
        if (span.file != rank || first >= last) continue;
        if (!file) file.emplace(open(rank));
        const SafetensorsEntry* entry = file->find(span.entry);
        if (entry == nullptr) throw DamagedError(file->path(), "changed while it was read");
        read_in_blocks(*file, *entry, span.begin, piece, first, last, progress);
      }
    }
  }
}

void read_in_blocks(const SafetensorsFile& file, const SafetensorsEntry& entry, int64_t entry_first, const Piece& piece,
                    int64_t first, int64_t last, const std::function<void()>& progress) {
  constexpr int64_t kBlock = static_cast<int64_t>(kChecksumBlock / Piece::kElementBytes);
  for (int64_t at = first; at < last; at += kBlock) {
    file.read(entry, piece.dtype, at - entry_first, std::min(kBlock, last - at), piece.at(at));
    if (progress) progress();
  }
}

}  // namespace sffn
