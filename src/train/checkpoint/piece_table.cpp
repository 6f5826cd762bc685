#include "train/checkpoint/piece_table.h"

#include "comm/agree.h"

#include <algorithm>
#include <tuple>

namespace sffn {
namespace {

std::string to_text(const std::vector<Piece>& pieces) {
  Json::Array list;
  for (const Piece& piece : pieces) {
    const std::vector<int64_t> dims = dims_of(piece.shape);
    list.push_back(Json::Array{piece.name, Json::Array(dims.begin(), dims.end()), piece.begin, piece.end,
                               piece.dtype == DType::kI32});
  }
  return Json(std::move(list)).dump();
}

void add(PieceTable& table, const Json::Array& item, int rank) {
  const std::string& name = item[0].as_string();
  std::vector<int64_t> shape;
  for (const Json& dim : item[1].as_array()) shape.push_back(dim.as_int());
  const DType dtype = item[4].as_bool() ? DType::kI32 : DType::kF32;
  const auto [place, is_new] = table.tensors.try_emplace(name, PieceTable::Entry{shape, dtype, {}});
  PieceTable::Entry& entry = place->second;
  SFFN_CHECK(is_new || (entry.shape == shape && entry.dtype == dtype), "tensor ", name, ": rank ", rank,
             " has another shape or type than a rank before it");
  const PieceTable::Span span{item[2].as_int(), item[3].as_int(), rank};
  SFFN_CHECK(0 <= span.begin && span.begin <= span.end && span.end <= entry.numel(), "tensor ", name, ": rank ", rank,
             " holds elements [", span.begin, ", ", span.end, ") of ", entry.numel());
  if (span.begin < span.end) entry.spans.push_back(span);
}

}  // namespace

std::vector<int64_t> dims_of(const Shape& shape) {
  std::vector<int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

int64_t PieceTable::Entry::numel() const {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

PieceTable gather_pieces(Communicator& comm, const std::vector<Piece>& pieces) {
  PieceTable table;
  const std::vector<std::string> texts = gather_texts(comm, to_text(pieces));
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    const Json list = parse_json(texts[rank], "pieces", ExitCode::kRunFailed);
    for (const Json& item : list.as_array()) add(table, item.as_array(), static_cast<int>(rank));
  }
  for (auto& [name, entry] : table.tensors) {
    std::sort(entry.spans.begin(), entry.spans.end(), [](const PieceTable::Span& a, const PieceTable::Span& b) {
      return std::tie(a.begin, a.rank) < std::tie(b.begin, b.rank);
    });
  }
  return table;
}

std::vector<PieceTable::Span> cover(const std::string& name, const PieceTable::Entry& entry) {
  std::vector<PieceTable::Span> result;
  int64_t next = 0;
  while (next < entry.numel()) {
    const PieceTable::Span* best = nullptr;
    int64_t end = entry.numel();  // at the latest where rank 0 has its own again
    for (const PieceTable::Span& span : entry.spans) {
      if (span.rank == 0 && span.begin > next) end = std::min(end, span.begin);
      if (span.begin > next || span.end <= next || (best && best->rank == 0)) continue;
      if (!best || span.rank == 0 || span.end > best->end) best = &span;
    }
    SFFN_CHECK(best != nullptr, "tensor ", name, ": no rank holds element ", next, " of ", entry.numel());
    result.push_back({next, best->rank == 0 ? best->end : std::min(best->end, end), best->rank});
    next = result.back().end;
  }
  return result;
}

void check_partition(const PieceTable& table) {
  for (const auto& [name, entry] : table.tensors) {
    int64_t next = 0;
    for (const PieceTable::Span& span : entry.spans) {
      SFFN_CHECK(span.begin == next, "tensor ", name, ": ranks hold element ", std::min(next, span.begin),
                 span.begin > next ? " nowhere" : " twice");
      next = span.end;
    }
    SFFN_CHECK(next == entry.numel(), "tensor ", name, ": no rank holds element ", next, " of ", entry.numel());
  }
}

}  // namespace sffn
