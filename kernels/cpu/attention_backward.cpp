// Gradients of attention tile by tile (Dao et al., arXiv 2205.14135, algorithm 4): probabilities are made again from q,
// k and lse. One thread owns one key/value head of one sequence: its dk and dv are summed in one order, without
// atomics.
#include "core/stream.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"
#include "kernels/ref/attention.h"

namespace sffn::cpu {
namespace attention {
namespace {

template <class T>
struct Arguments {
  T* dqkv;
  const T *dout, *out;
  const float* lse;
  const T* qkv;
  const int32_t* segment_start;
  const AttentionShape& shape;
  const Dropout& dropout;
};

template <class T>
struct KeyValueHead {
  const Arguments<T>& a;
  int64_t sequence, kv_head;
  int64_t width;                                                   // head_dim rounded up to kStrip
  float *k = nullptr, *v = nullptr, *dk = nullptr, *dv = nullptr;  // [T, width]
  // One tile of queries, and of queries and keys.
  float *q = nullptr, *dout = nullptr, *dq = nullptr, *q_t = nullptr, *dout_t = nullptr;
  float *p = nullptr, *ds = nullptr, *factors = nullptr;
  alignas(64) float lse[kTile] = {}, d[kTile] = {};  // D_i = Σ_c dout_ic·out_ic

  static int64_t scratch_floats(int64_t time, int64_t width) {
    return 4 * time * width + 5 * kTile * width + 3 * kTile * kTile;
  }

  int64_t token(int64_t i) const { return sequence * a.shape.time + i; }
  int64_t key_column() const { return (a.shape.heads + kv_head) * a.shape.head_dim; }
  int64_t value_column() const { return key_column() + a.shape.kv_heads * a.shape.head_dim; }

  void begin(Pieces& scratch) {
    const AttentionShape& shape = a.shape;
    for (float** whole : {&k, &v, &dk, &dv}) *whole = scratch.take(shape.time * width);
    for (float** tile : {&q, &dout, &dq, &q_t, &dout_t}) *tile = scratch.take(kTile * width);
    for (float** tile : {&p, &ds, &factors}) *tile = scratch.take(kTile * kTile);
    const T* rows = a.qkv + token(0) * shape.qkv_width();
    load_rows(k, width, rows + key_column(), shape.qkv_width(), shape.time, shape.head_dim, 1);
    load_rows(v, width, rows + value_column(), shape.qkv_width(), shape.time, shape.head_dim, 1);
    std::fill(dk, dk + shape.time * width, 0.0f);
    std::fill(dv, dv + shape.time * width, 0.0f);
  }

  void query_tile(int64_t head, int64_t q0) {
    const AttentionShape& shape = a.shape;
    const int64_t queries = std::min(kTile, shape.time - q0);
    load_queries(head, q0, queries);
    const int32_t* first = a.segment_start == nullptr ? nullptr : a.segment_start + token(0);
    const Visibility visible(first, q0, queries);
    for (int64_t k0 = visible.first_tile(); k0 <= q0; k0 += kTile) {
      key_tile(head, {q0, queries, k0, std::min(kTile, shape.time - k0)}, visible);
    }
    for (int64_t i = 0; i < queries; ++i) {
      store_row(a.dqkv + token(q0 + i) * shape.qkv_width() + head * shape.head_dim, dq + i * width, shape.head_dim,
                static_cast<float>(shape.scale));
    }
  }

  // q is scaled, so that q·k is the score and dk = dSᵀ q; lanes beyond the queries are zero and so are their gradients.
  void load_queries(int64_t head, int64_t q0, int64_t queries) {
    const AttentionShape& shape = a.shape;
    const int64_t out_at = token(q0) * shape.out_width() + head * shape.head_dim;
    load_transposed(q_t, q, width, a.qkv + token(q0) * shape.qkv_width() + head * shape.head_dim, shape.qkv_width(),
                    queries, shape.head_dim, static_cast<float>(shape.scale));
    load_transposed(dout_t, dout, width, a.dout + out_at, shape.out_width(), queries, shape.head_dim, 1);
    std::fill(dq, dq + kTile * width, 0.0f);
    for (int64_t i = 0; i < kTile; ++i) {
      lse[i] = 0, d[i] = 0;
      if (i >= queries) continue;
      lse[i] = a.lse[(sequence * shape.heads + head) * shape.time + q0 + i];
      const T* out_i = a.out + out_at + i * shape.out_width();
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t c = 0; c < shape.head_dim; ++c) total += dout[i * width + c] * static_cast<float>(out_i[c]);
      d[i] = total;
    }
  }

  void key_tile(int64_t head, const Tile& tile, const Visibility& visible) {
    const int64_t at = tile.k0 * width;
    multiply_scores(p, k + at, width, q_t, a.shape.head_dim, tile);
    multiply_scores(ds, v + at, width, dout_t, a.shape.head_dim, tile);
    if (visible.masks(tile)) mask_scores(p, visible, tile, -std::numeric_limits<float>::infinity());
    if (a.dropout.probability > 0) {
      const int64_t row = (sequence * a.shape.heads + head) * a.shape.time + tile.q0;
      dropout_factors(factors, a.dropout, row, a.shape.time, tile);
      score_gradient<true>(tile);
    } else {
      score_gradient<false>(tile);
    }
    add_over_queries(dv + at, p, dout, width, tile);
    add_over_queries(dk + at, ds, q, width, tile);
    add_over_keys(dq, ds, k + at, width, tile);
  }

  // p = exp(s - lse);  ds = p ⊙ (factor ⊙ dP - D);  p = factor ⊙ p
  template <bool kDropout>
  void score_gradient(const Tile& tile) {
    const int64_t lanes = tile.lanes();
    for (int64_t j = 0; j < tile.keys; ++j) {
      float *p_j = p + j * kTile, *ds_j = ds + j * kTile;
      const float* factor = factors + j * kTile;
      const int64_t first = tile.diagonal() ? j / kStrip * kStrip : 0;
#pragma omp simd
      for (int64_t i = first; i < lanes; ++i) {
        const float probability = exp_f32(p_j[i] - lse[i]);
        const float keep = kDropout ? factor[i] : 1.0f;
        ds_j[i] = probability * (keep * ds_j[i] - d[i]);
        p_j[i] = keep * probability;
      }
    }
  }

  void finish() const {
    const AttentionShape& shape = a.shape;
    for (int64_t j = 0; j < shape.time; ++j) {
      T* row = a.dqkv + token(j) * shape.qkv_width();
      store_row(row + key_column(), dk + j * width, shape.head_dim, 1);
      store_row(row + value_column(), dv + j * width, shape.head_dim, 1);
    }
  }
};

template <class T>
void backward(const Arguments<T>& a) {
  const AttentionShape& shape = a.shape;
  const int64_t width = round_up(shape.head_dim, kStrip), group = shape.heads / shape.kv_heads;
  parallel_chunks(shape.batch * shape.kv_heads, 1, [&](int64_t item, int64_t) {
    KeyValueHead<T> kv{a, item / shape.kv_heads, item % shape.kv_heads, width};
    Pieces scratch(KeyValueHead<T>::scratch_floats(shape.time, width));
    kv.begin(scratch);
    for (int64_t head = kv.kv_head * group; head < (kv.kv_head + 1) * group; ++head) {
      for (int64_t q0 = 0; q0 < shape.time; q0 += kTile) kv.query_tile(head, q0);
    }
    kv.finish();
  });
}

}  // namespace
}  // namespace attention

void attention_backward(Stream&, Tensor dqkv, const Tensor& dout, const Tensor& out, const Tensor& lse,
                        const Tensor& qkv, const Tensor& segment_start, const AttentionShape& shape,
                        const Dropout& given) {
  const Dropout dropout = given.now();
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    using Acc = AccumulateOf<T>;
    const int32_t* first = segment_start.data_or_null<int32_t>();
    if constexpr (kIsReference<T>) {
      ref::attention_backward(dqkv.data<T>(), dout.data<T>(), out.data<T>(), lse.data<Acc>(), qkv.data<T>(), first,
                              shape, dropout);
    } else {
      attention::backward<T>(
          {dqkv.data<T>(), dout.data<T>(), out.data<T>(), lse.data<Acc>(), qkv.data<T>(), first, shape, dropout});
    }
  });
}

}  // namespace sffn::cpu
