// Between all cells [N,M] and those of the chosen blocks [N·b,G], the definitions.
#pragma once
#include <cstdint>

namespace sffn::ref {

// out[n·b + i, j] = cells[n, m] + bias[m], m = blocks[n,i]·G + j; 0 for a block of -1
template <class T>
void gather_cells(T* out, const T* cells, const T* bias, const int32_t* blocks, int64_t N, int64_t b, int64_t G,
                  int64_t M) {
  for (int64_t c = 0; c < N * b; ++c) {
    for (int64_t j = 0; j < G; ++j) {
      const int64_t m = blocks[c] * G + j;
      out[c * G + j] = blocks[c] < 0 ? T{} : cells[c / b * M + m] + (bias != nullptr ? bias[m] : T{});
    }
  }
}

// cells = 0, then cells[n, blocks[n,i]·G + j] += weights[n,i]·h[n·b + i, j]; nothing for a block of -1
template <class T>
void scatter_cells(T* cells, const T* h, const T* weights, const int32_t* blocks, int64_t N, int64_t b, int64_t G,
                   int64_t M) {
  for (int64_t e = 0; e < N * M; ++e) cells[e] = T{};
  for (int64_t c = 0; c < N * b; ++c) {
    if (blocks[c] < 0) continue;
    for (int64_t j = 0; j < G; ++j) {
      cells[c / b * M + blocks[c] * G + j] += (weights != nullptr ? weights[c] : T(1)) * h[c * G + j];
    }
  }
}

// out[p] = rows[order[p]]; 0 where order[p] is -1
template <class T>
void permute_rows(T* out, const T* rows, const int32_t* order, int64_t P, int64_t G) {
  for (int64_t p = 0; p < P; ++p) {
    for (int64_t j = 0; j < G; ++j) out[p * G + j] = order[p] < 0 ? T{} : rows[order[p] * G + j];
  }
}

}  // namespace sffn::ref
