// Attention without a T×T tensor: an online softmax over key tiles for each tile of queries (Dao et al., arXiv
// 2205.14135; Milakov & Gimelshein, arXiv 1805.02867), in fp32.
#include "core/stream.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"
#include "kernels/ref/attention.h"

namespace sffn::cpu {
namespace attention {
namespace {

// A tile of queries of one head, and the running maximum m, sum l and output o of its softmax.
template <class T>
struct QueryTile {
  const AttentionShape& shape;
  const Dropout& dropout;
  const T* qkv;
  int64_t sequence, head, q0, queries;
  int64_t width;  // head_dim rounded up to kStrip
  float *q_t = nullptr, *k = nullptr, *v = nullptr, *o = nullptr, *scores = nullptr, *factors = nullptr;
  alignas(64) float m[kTile] = {}, l[kTile] = {};

  static int64_t scratch_floats(int64_t width) { return 5 * kTile * width + 2 * kTile * kTile; }

  const T* row(int64_t i) const { return qkv + (sequence * shape.time + i) * shape.qkv_width(); }
  int64_t key_offset() const { return (shape.heads + head / (shape.heads / shape.kv_heads)) * shape.head_dim; }

  void begin(Pieces& scratch) {
    q_t = scratch.take(kTile * width), k = scratch.take(kTile * width), v = scratch.take(kTile * width);
    o = scratch.take(kTile * width), scores = scratch.take(kTile * kTile), factors = scratch.take(kTile * kTile);
    float* q = scratch.take(kTile * width);
    load_transposed(q_t, q, width, row(q0) + head * shape.head_dim, shape.qkv_width(), queries, shape.head_dim,
                    static_cast<float>(shape.scale));
    std::fill(o, o + kTile * width, 0.0f);
    std::fill(m, m + kTile, std::numeric_limits<float>::lowest());
    std::fill(l, l + kTile, 0.0f);
  }

  // m' = max(m, max_j s_j);  s_j = exp(s_j - m');  l = exp(m - m')·l + Σ_j s_j;  o = exp(m - m')·o
  void online_softmax(const Tile& tile) {
    alignas(64) float shrink[kTile];
    const int64_t lanes = tile.lanes();
    for (int64_t lane = 0; lane < lanes; lane += kStrip) {
      const int64_t keys = tile.diagonal() ? std::min(tile.keys, lane + kStrip) : tile.keys;
      softmax_strip(scores + lane, m + lane, l + lane, shrink + lane, keys);
    }
    for (int64_t i = 0; i < queries; ++i) {
      float* o_i = o + i * width;
      const float factor = shrink[i];
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) o_i[c] *= factor;
    }
  }

  static void softmax_strip(float* scores, float* m, float* l, float* shrink, int64_t keys) {
    float largest[kStrip], sum[kStrip];
    for (int64_t i = 0; i < kStrip; ++i) largest[i] = m[i];
    for (int64_t j = 0; j < keys; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < kStrip; ++i) {
        const float s = scores[j * kTile + i];
        largest[i] = s > largest[i] ? s : largest[i];
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < kStrip; ++i) {
      shrink[i] = exp_f32(m[i] - largest[i]);
      sum[i] = l[i] * shrink[i];
      m[i] = largest[i];
    }
    for (int64_t j = 0; j < keys; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < kStrip; ++i) {
        const float p = exp_f32(scores[j * kTile + i] - largest[i]);
        scores[j * kTile + i] = p;
        sum[i] += p;
      }
    }
    for (int64_t i = 0; i < kStrip; ++i) l[i] = sum[i];
  }

  void drop(const Tile& tile) {
    dropout_factors(factors, dropout, (sequence * shape.heads + head) * shape.time + q0, shape.time, tile);
    for (int64_t j = 0; j < tile.keys; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < kTile; ++i) scores[j * kTile + i] *= factors[j * kTile + i];
    }
  }

  void attend(const Tile& tile, const Visibility& visible) {
    const T* keys = row(tile.k0) + key_offset();
    load_rows(k, width, keys, shape.qkv_width(), tile.keys, shape.head_dim, 1);
    load_rows(v, width, keys + shape.kv_heads * shape.head_dim, shape.qkv_width(), tile.keys, shape.head_dim, 1);
    multiply_scores(scores, k, width, q_t, shape.head_dim, tile);
    if (visible.masks(tile)) mask_scores(scores, visible, tile, -std::numeric_limits<float>::infinity());
    online_softmax(tile);
    if (dropout.probability > 0) drop(tile);
    add_over_keys(o, scores, v, width, tile);
  }

  void finish(T* out, float* lse) const {
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t token = sequence * shape.time + q0 + i;
      store_row(out + token * shape.out_width() + head * shape.head_dim, o + i * width, shape.head_dim, 1 / l[i]);
      lse[(sequence * shape.heads + head) * shape.time + q0 + i] = m[i] + std::log(l[i]);
    }
  }
};

template <class T>
void forward(T* out, float* lse, const T* qkv, const int32_t* segment_start, const AttentionShape& shape,
             const Dropout& dropout) {
  const int64_t tiles = (shape.time + kTile - 1) / kTile, width = round_up(shape.head_dim, kStrip);
  parallel_chunks(shape.batch * shape.heads * tiles, 1, [&](int64_t item, int64_t) {
    const int64_t pair = item / tiles, q0 = (tiles - 1 - item % tiles) * kTile;  // the longest tile first
    const int64_t sequence = pair / shape.heads, queries = std::min(kTile, shape.time - q0);
    QueryTile<T> query{shape, dropout, qkv, sequence, pair % shape.heads, q0, queries, width};
    Pieces scratch(QueryTile<T>::scratch_floats(width));
    query.begin(scratch);
    const Visibility visible(segment_start == nullptr ? nullptr : segment_start + sequence * shape.time, q0, queries);
    for (int64_t k0 = visible.first_tile(); k0 <= q0; k0 += kTile) {
      query.attend({q0, queries, k0, std::min(kTile, shape.time - k0)}, visible);
    }
    query.finish(out, lse);
  });
}

}  // namespace
}  // namespace attention

void attention_forward(Stream&, Tensor out, Tensor lse, const Tensor& qkv, const Tensor& segment_start,
                       const AttentionShape& shape, const Dropout& given) {
  const Dropout dropout = given.now();
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    using Acc = AccumulateOf<T>;
    const int32_t* first = segment_start.data_or_null<int32_t>();
    if constexpr (kIsReference<T>) {
      ref::attention_forward(out.data<T>(), lse.data<Acc>(), qkv.data<T>(), first, shape, dropout);
    } else {
      attention::forward(out.data<T>(), lse.data<Acc>(), qkv.data<T>(), first, shape, dropout);
    }
  });
}

}  // namespace sffn::cpu
