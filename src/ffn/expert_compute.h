// The block product of a sparse layer, whatever chose the blocks:
//   y = Σ_{i∈S} a_i Σ_{j in block i} h_j V[j] + c_v,   h = f(z) or f(gate) ⊙ z,   z = x·K_iᵀ + c_i,  gate = x·G_iᵀ
// and its backward pass (methods.md section 1). Two forms give the same numbers to rounding:
//   grouped  choices sorted by block: gather, block GEMM, ordered combine; work grows with the active cells k
//   masked   all M cells as dense products, the unchosen zeroed; work grows with M, but in large GEMMs
// Without a keys table h = 1: a memory of values alone.
// Legend: N tokens, D width, M cells, B blocks of G, b chosen, P = N·b.
#pragma once
#include "ffn/block_store.h"
#include "ffn/expert_form.h"
#include "ffn/selector.h"
#include "kernels/routing.h"

namespace sffn {

class ExpertCompute {
 public:
  struct Cells {
    Tensor z, gate;  // [P, G]; gate only with a gate table
  };
  struct Saved {
    Cells cells;           // in the order of the form; absent under recomputation
    BlockRouting routing;  // grouped only
  };
  // shape: of the whole layer. Where the blocks are spread over ranks nothing is kept for backward(), and what is
  // `known` is not read.
  ExpertCompute(const BlockShape& shape, const BlockStore& tables, const ExpertPlan& plan, bool recompute)
      : shape_(shape.of(tables.share)),
        tables_(tables),
        form_(plan.form),
        chunk_(plan.chunk),
        recompute_(recompute || tables.share.spread()) {}

  // y [N, D] = the product for x [N, D]. What is `known` of z and gate, in the order of choices (cells of choice n·b +
  // i in row n·b + i; zeros for dropped ones), is taken instead of a product with the table.
  void forward(Context&, Tensor y, const Tensor& x, const Selection&, Saved&, const Cells& known = {}) const;
  // dx [N, D], overwritten; dweights [N, b] acc, overwritten, absent where the selection has no weights. Gradients of
  // the tables accumulate. Under recomputation `known` is what forward() was given, made again; else it is not read.
  void backward(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&, const Saved&,
                const Cells& known = {}) const;

  ExpertForm form() const { return form_; }

 private:
  Cells allocate(Arena&, int64_t rows, DType) const;
  Cells slice(const Cells&, int64_t first, int64_t rows) const;
  void forward_here(Context&, Tensor y, const Tensor& x, const Selection&, Saved&, const Tensor& value_bias,
                    const Cells& known) const;
  void backward_here(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&,
                     const Saved&, const Cells& known) const;
  void forward_spread(Context&, Tensor y, const Tensor& x, const Selection&) const;
  void backward_spread(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&) const;
  BlockRouting route(Context&, const Selection&) const;
  void make_cells(Context&, const Cells&, Tensor h, const Tensor& x, const Saved&, const Selection&,
                  const Cells& known) const;
  void place(Context&, Tensor out, const Tensor& known, const Saved&) const;
  void project(Context&, Tensor out, const Tensor& x, const Param& table, const Param* bias, const Saved&,
               const Selection&) const;
  void combine(Context&, Tensor y, const Tensor& h, const Saved&, const Selection&, const Tensor& value_bias) const;
  void backward_grouped(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&,
                        const Saved&, const Cells&, const Tensor& h) const;
  void backward_masked(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x, const Selection&,
                       const Cells&) const;
  void forward_values(Context&, Tensor y, const Selection&, Saved&, const Tensor& value_bias) const;
  void backward_values(Context&, Tensor dweights, const Tensor& dy, const Selection&, const Saved&) const;
  Tensor weights_as_rows(Context&, const Selection&, DType) const;
  int64_t chunk_tokens(int64_t tokens, DType) const;

  BlockShape shape_;
  BlockStore tables_;
  ExpertForm form_;
  int64_t chunk_;
  bool recompute_;
};

}  // namespace sffn
