// Grouped products on the tensor cores of sm_90a (wgmma.cuh), between tiles of sorted rows and the cells of their
// block:
//   c[r, j] = Σ_k left[row of r, k]·w_block(k, j)
// with w [B·G, D]: along the depth, w_block(k, j) = w[block·G + j, k], or across it, w[block·G + k, j].
// Blocks of threads stay on their multiprocessor and take one unit after another: a tile of 128 rows and kColumns
// columns, two warpgroups of 64 rows each. Copies of 64 depths are two steps ahead of the products, beyond the end of a
// unit too. The units of one tile of rows are neighbours, and so are those of one block, so that what they share meets
// in L2. At the end of a unit nothing multiplies: its results leave by rows (turn_rows), what is added to them is there
// with the factors, and what the next units are is read a whole unit before it is looked at.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <algorithm>

namespace sffn::cuda {

struct BlockProduct {
  const bfloat16 *left, *w;
  int G, D;
  const float* bias;  // where w lies along the depth, [B·G]: of the columns of c; null: none
  int begin, end;     // columns of the product
  TileList list;      // of rows
  int first, slots;   // of the list
};

template <int kColumns>
struct GroupProduct {
  static constexpr int kThreads = 256, kStages = kColumns == 128 ? 6 : 4;
  static constexpr int kBlocks = kColumns == 64 ? 2 : 1;  // of a multiprocessor
  struct Stage {                                          // shared
    bfloat16 left[kTileRows * kPanelWidth], w[kColumns * kPanelWidth];
  };
  struct Memory {  // shared
    Stage stages[kStages];
    float bias[kStages][kColumns];  // of the unit whose last step has the stage
    bfloat16 turned[kThreads / 32][kTurnedRows * kPanelWidth];
  };
  static constexpr size_t kBytes = sizeof(Memory) + kPanelAlignment;
};

// A unit of a block of threads: rows [first, last) of one block and columns from `column` on.
struct ProductUnit {
  int32_t block, first, last;
  int column;
};

// blockIdx.x, and every gridDim.x-th after it.
class UnitWalk {
 public:
  __device__ __forceinline__ UnitWalk(const BlockProduct& p, int columns)
      : p_(p), columns_(columns), parts_((p.end - p.begin + columns - 1) / columns), next_(blockIdx.x) {}

  // Asks memory for the unit's tile, and does not look at it.
  __device__ __forceinline__ bool next(ProductUnit& unit) {
    const auto most = static_cast<unsigned>(p_.list.most);
    for (const unsigned units = p_.slots * parts_; next_ < units;) {
      const unsigned slot = p_.first + next_ / parts_, part = next_ % parts_, segment = slot / most;
      next_ += gridDim.x;
      if (segment != segment_) segment_ = segment, count_ = static_cast<unsigned>(p_.list.counts[segment]);
      if (slot - segment * most >= count_) continue;
      const ListedTile& tile = p_.list.tiles[slot];
      unit = {tile.block, tile.first, tile.last, p_.begin + static_cast<int>(part) * columns_};
      return true;
    }
    return false;
  }

 private:
  const BlockProduct& p_;
  int columns_;
  unsigned parts_, next_, segment_ = ~0u, count_ = 0;  // tiles of the segment
};

// Where the copies of a block of threads are. A thread copies the same piece of every kStep-th row of a panel.
// Of sorted row i, row_of(found(i)) is the row of left, and found(i) all of memory that it takes to know it.
template <bool kAcross, int kColumns, class Left>
class ProductCopies {
 public:
  __device__ __forceinline__ ProductCopies(const BlockProduct& p, const Left& left)
      : p_(p), rows_of_left_(left), walk_(p, kColumns), depth_(kAcross ? p.G : p.D) {
    any_after_ = walk_.next(after_);
    look_ahead();
    advance();
  }
  // Asks for the next step, if there is one; what does not exist is zero.
  __device__ __forceinline__ void ask(typename GroupProduct<kColumns>::Memory& memory, int of_stage) {
    if (!any_) return;
    auto& stage = memory.stages[of_stage];
    const int row = row_of_thread(), column = column_of_thread();
    bfloat16* left = piece_at(stage.left, row, column / kPiece);
    SFFN_UNROLL for (int i = 0; i < kRows; ++i) {
      copy_row_async(left + i * kStep * kPanelWidth, left_[i], row + i * kStep < rows_ && k_ + column < depth_);
      left_[i] += kPanelWidth;
    }
    bfloat16* w = piece_at(stage.w, row, column / kPiece);
    if constexpr (kAcross) {
      SFFN_UNROLL for (int i = 0; i < kPanelWidth / kStep; ++i) {
        const bfloat16* from = w_ + int64_t{i} * kStep * p_.D;
        SFFN_UNROLL for (int c = 0; c < kColumns; c += kPanelWidth) {
          copy_async<16>(w + (c + i * kStep) * kPanelWidth, from + c,
                         k_ + row + i * kStep < depth_ && column + c < columns_);
        }
      }
      w_ += int64_t{kPanelWidth} * p_.D;
    } else {
      const bfloat16* from = w_;
      SFFN_UNROLL for (int i = 0; i < kColumns / kStep; ++i) {
        copy_async<16>(w + i * kStep * kPanelWidth, from, row + i * kStep < columns_ && k_ + column < depth_);
        from += int64_t{kStep} * p_.D;
      }
      w_ += kPanelWidth;
    }
    k_ += kPanelWidth;
    if (k_ < depth_) return;
    if (const int me = static_cast<int>(threadIdx.x); p_.bias != nullptr && me < kColumns) {
      copy_async<4>(&memory.bias[of_stage][me], p_.bias + first_of_w_ + me, me < columns_);
    }
    advance();
  }

 private:
  static constexpr int kStep = GroupProduct<kColumns>::kThreads / kPanelPieces, kRows = kTileRows / kStep;
  static_assert(kStep % 8 == 0);  // the order of pieces in a row repeats

  static __device__ __forceinline__ int row_of_thread() { return static_cast<int>(threadIdx.x) / kPanelPieces; }
  static __device__ __forceinline__ int column_of_thread() {
    return static_cast<int>(threadIdx.x) % kPanelPieces * kPiece;
  }

  // What advance will need of memory is asked for a unit before: it is a way of two reads to the rows of a unit.
  __device__ __forceinline__ void look_ahead() {
    next_ = after_, any_next_ = any_after_;
    SFFN_UNROLL for (int i = 0; i < kRows; ++i) {
      const int row = next_.first + row_of_thread() + i * kStep;
      if (any_next_ && row < next_.last) found_[i] = rows_of_left_.found(row);
    }
    any_after_ = any_after_ && walk_.next(after_);
  }
  __device__ __forceinline__ void advance() {
    k_ = 0, any_ = any_next_;
    if (!any_) return;
    const int row = row_of_thread(), column = column_of_thread();
    rows_ = next_.last - next_.first, columns_ = p_.end - next_.column;
    SFFN_UNROLL for (int i = 0; i < kRows; ++i) {
      left_[i] = p_.left + int64_t{rows_of_left_.row_of(found_[i])} * depth_ + column;  // some row, where there is none
    }
    first_of_w_ = int64_t{next_.block} * p_.G + (kAcross ? 0 : next_.column);
    w_ = p_.w + (first_of_w_ + row) * p_.D + (kAcross ? next_.column : 0) + column;
    look_ahead();
  }

  const BlockProduct& p_;
  const Left& rows_of_left_;
  UnitWalk walk_;
  int depth_;
  // this unit: its rows and columns, the first row of w, where the thread's first pieces of the next step are
  int k_ = 0, rows_ = 0, columns_ = 0;
  int64_t first_of_w_ = 0;
  const bfloat16 *left_[kRows], *w_ = nullptr;
  bool any_ = false, any_next_ = false, any_after_ = false;
  ProductUnit next_ = {}, after_ = {};
  int32_t found_[kRows] = {};
};

// What a warp has at the end of a unit: sums of its 16 rows and all columns, and memory to turn them.
template <int kColumns>
struct UnitEnd {
  const FragmentC (&sum)[kColumns / 8];
  const float* bias;  // of the unit's columns, shared; null: none
  bfloat16* turned;   // shared
};

// All units of a block of threads. left: see ProductCopies. prepare(unit), also of one without rows, reads what
// finish(unit, prepared, end) will need.
template <bool kAcross, int kColumns, class Left, class Prepare, class Finish>
__device__ __forceinline__ void multiply_units(const BlockProduct& p, const Left& left, Prepare&& prepare,
                                               Finish&& finish) {
  using Product = GroupProduct<kColumns>;
  constexpr int kStages = Product::kStages;
  auto& memory = *panels_of_block<typename Product::Memory>();
  const int row = static_cast<int>(threadIdx.x) / 128 * 64, depth = kAcross ? p.G : p.D;
  ProductCopies<kAcross, kColumns, Left> copies(p, left);
  UnitWalk walk(p, kColumns);
  SFFN_UNROLL for (int s = 0; s < kStages - 2; ++s) {
    copies.ask(memory, s);
    commit_copies();
  }
  FragmentC sum[kColumns / 8] = {};
  int stage = 0, last = 0;  // stages of the next step and of the one before
  ProductUnit unit = {};
  bool any = walk.next(unit);
  auto prepared = prepare(unit);
  while (any) {
    for (int k = 0; k < depth; k += kPanelWidth) {
      wait_for_copies<kStages - 3>();
      publish_copies();
      __syncthreads();  // this step is there, and no warpgroup multiplies the one before the last any more
      begin_products();
      SFFN_UNROLL for (int i = 0; i < kPanelWidth; i += 16) {
        const bfloat16* w = memory.stages[stage].w;
        add_products<kAcross>(
            sum, describe_along(memory.stages[stage].left, row, i),
            kAcross ? describe_across(w, kPanelWidth * kPanelWidth * sizeof(bfloat16), i) : describe_along(w, 0, i),
            k + i > 0);
      }
      commit_products();
      copies.ask(memory, (stage + kStages - 2) % kStages);
      commit_copies();
      wait_for_products<1>(sum);
      last = stage, stage = (stage + 1) % kStages;
    }
    ProductUnit next = {};  // read while the last products are under way
    any = walk.next(next);
    const auto prepared_next = prepare(next);
    wait_for_products<0>(sum);
    finish(unit, prepared,
           UnitEnd<kColumns>{sum, p.bias != nullptr ? memory.bias[last] : nullptr, memory.turned[threadIdx.x / 32]});
    unit = next, prepared = prepared_next;
  }
}

// Launches a kernel that multiplies p's units. It is compiled for sm_90a.
template <int kColumns, class Params>
void launch_units(Stream& stream, void (*kernel)(Params, BlockProduct), const Work& work, const Params& params,
                  const BlockProduct& p) {
  using Product = GroupProduct<kColumns>;
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, native(stream).device),
        "cudaDeviceGetAttribute");
  const int units = p.slots * ((p.end - p.begin + kColumns - 1) / kColumns);
  launch(
      stream, kernel,
      {static_cast<unsigned>(std::min(units, multiprocessors * Product::kBlocks)), Product::kThreads, Product::kBytes},
      work, params, p);
}

// Columns of a unit, of `count`: the widest that pads them no more than 64 do.
inline int columns_of_unit(int count, int most) {
  const auto padded = [count](int columns) { return (count + columns - 1) / columns * columns; };
  int columns = 64;
  while (columns < most && padded(2 * columns) <= padded(64)) columns *= 2;
  return columns;
}

}  // namespace sffn::cuda
