#include "train/optimizer.h"

#include "kernels/ops.h"

#include <algorithm>

namespace sffn {
namespace {

int64_t end_of(const FlatRange& range) { return range.offset + range.count; }

bool begins_within(const ParamChunk& chunk, const FlatRange& range) {
  return chunk.offset >= range.offset && chunk.offset < end_of(range);
}

}  // namespace

std::vector<FlatRange> partition_flat(const ParamStore& params, int ranks) {
  int64_t total = 0;
  for (const ParamChunk& chunk : params.chunks()) total += chunk.count;
  std::vector<FlatRange> ranges(ranks);
  int64_t before = 0;
  size_t at = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    ranges[rank].offset = rank == 0 ? 0 : end_of(ranges[rank - 1]);
    const int64_t goal = total * (rank + 1) / ranks;
    while (at < params.chunks().size() && before < goal) before += params.chunks()[at++].count;
    const bool last = rank + 1 == ranks || at == params.chunks().size();
    ranges[rank].count = (last ? params.flat_size() : params.chunks()[at].offset) - ranges[rank].offset;
  }
  return ranges;
}

AdamW::AdamW(const OptimizerConfig& config, ParamStore& params, FlatRange range, DeviceRuntime& runtime)
    : config_(config), params_(&params), range_(range) {
  const DType state = accumulate_type(params.dtype());
  const int64_t matrices_end = std::clamp(params.matrix_size(), range.offset, end_of(range));
  const bool has_master = params.dtype() == DType::kBF16;
  const int64_t master_size = has_master ? matrices_end - range.offset : 0;
  moments_ = Buffer(runtime, {2 * range.count}, state);
  master_ = Buffer(runtime, {master_size}, state);
  m_ = moments_.tensor({2, range.count}, state).slice(0, 1).view({range.count});
  v_ = moments_.tensor({2, range.count}, state).slice(1, 1).view({range.count});
  if (has_master) matrices_master_ = master_.tensor({master_size}, state);

  for (const Param& param : params.all()) {
    const int64_t first = std::max(param.offset, range.offset);
    const int64_t last = std::min(param.offset + param.count, end_of(range));
    if (first >= last) continue;
    Piece piece;
    piece.param = &param;
    piece.begin = first - param.offset;
    piece.end = last - param.offset;
    piece.m = m_.slice(first - range.offset, last - first);
    piece.v = v_.slice(first - range.offset, last - first);
    const Tensor value = param.value.view({param.count}).slice(piece.begin, last - first);
    if (has_master && param.spec.storage == Storage::kMatrix) {
      piece.master = matrices_master_.slice(first - range.offset, last - first);
      piece.rounded = value;
    } else {
      piece.master = value;
    }
    pieces_.push_back(piece);
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.param->offset < b.param->offset; });
  for (const Piece& piece : pieces_) {
    const bool is_matrix = piece.param->spec.storage == Storage::kMatrix, decays = piece.param->spec.decay();
    const FlatRange flat{piece.param->offset + piece.begin, piece.end - piece.begin};
    if (runs_.empty() || runs_.back().is_matrix != is_matrix || runs_.back().decays != decays) {
      runs_.push_back({is_matrix, decays, flat});
    } else {
      runs_.back().flat.count = end_of(flat) - runs_.back().flat.offset;
    }
  }
}

void AdamW::adopt_values(Stream& stream) {
  for (const Piece& piece : pieces_) {
    if (piece.rounded.defined()) ops::copy(stream, piece.master, piece.rounded);
  }
}

void AdamW::update(Stream& stream, const Tensor& grad, const Tensor& numbers) {
  for (const Run& run : runs_) update_run(stream, run, grad, numbers);
}

void AdamW::update_run(Stream& stream, const Run& run, const Tensor& grad, const Tensor& numbers) {
  const AdamWOptions options{.beta1 = config_.beta1,
                             .beta2 = config_.beta2,
                             .eps = config_.eps,
                             .weight_decay = run.decays ? config_.weight_decay : 0};
  const int64_t first = run.flat.offset - range_.offset, count = run.flat.count;
  const Tensor value = run.is_matrix ? params_->flat_matrices().slice(run.flat.offset, count)
                                     : params_->flat_vectors().slice(run.flat.offset - params_->matrix_size(), count);
  const bool is_rounded = run.is_matrix && matrices_master_.defined();
  ops::adamw(stream, is_rounded ? matrices_master_.slice(first, count) : value, is_rounded ? value : Tensor(),
             m_.slice(first, count), v_.slice(first, count), grad.slice(first, count), numbers, options);
}

int64_t chunk_count(const ParamStore& params, FlatRange range) {
  return std::count_if(params.chunks().begin(), params.chunks().end(),
                       [&](const ParamChunk& chunk) { return begins_within(chunk, range); });
}

void chunk_square_sums(Stream& stream, Tensor sums, const ParamStore& params, FlatRange range, const Tensor& grad) {
  std::vector<const ParamChunk*> mine;
  for (const ParamChunk& chunk : params.chunks()) {
    if (begins_within(chunk, range)) mine.push_back(&chunk);
  }
  const int64_t count = static_cast<int64_t>(mine.size());
  for (int64_t i = 0; i < count;) {  // the chunks of one parameter are neighbours
    int64_t next = i, elements = 0;
    while (next < count && mine[next]->param == mine[i]->param) elements += mine[next++]->count;
    ops::sum_of_squares(stream, sums.slice(i, next - i), grad.slice(mine[i]->offset - range.offset, elements),
                        ParamStore::kChunk);
    i = next;
  }
}

void gather_values(Stream& stream, Communicator& data, ParamStore& params, const std::vector<FlatRange>& ranges) {
  if (data.size() == 1) return;
  const auto gather = [&](const Tensor& all, int64_t first, int64_t last) {
    std::vector<int64_t> counts;
    int64_t mine = 0;
    for (int rank = 0; rank < data.size(); ++rank) {
      const int64_t begin = std::clamp(ranges[rank].offset, first, last);
      const int64_t end = std::clamp(end_of(ranges[rank]), first, last);
      if (rank == data.rank()) mine = begin - first;
      counts.push_back(end - begin);
    }
    data.all_gather(stream, all, all.slice(mine, counts[data.rank()]), counts);
  };
  gather(params.flat_matrices(), 0, params.matrix_size());
  gather(params.flat_vectors(), params.matrix_size(), params.flat_size());
}

}  // namespace sffn
