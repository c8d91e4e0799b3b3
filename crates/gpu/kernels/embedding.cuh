// Tokens to rows: the sum of one row of each table, normed.
#pragma once

#include "rows.cuh"

constexpr unsigned MOST_TABLES = 4;

struct EmbeddingArguments {
  const void *tables[MOST_TABLES];
  const uint32_t *rows_of[MOST_TABLES]; // for each token its row of each table
  void *to;
  NormParameters norm;
  uint32_t tables_count, rows, width, stride;
};

template <typename T, typename To> __device__ inline void embed_rows(const EmbeddingArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  auto sum = [&](unsigned column) {
    Four some = {};
    for (unsigned table = 0; table < a.tables_count; table++) {
      const T *from = static_cast<const T *>(a.tables[table]) + size_t(a.rows_of[table][row]) * a.stride;
      Four more = load_four(from + column);
      for (unsigned i = 0; i < 4; i++) {
        some.at[i] += more.at[i];
      }
    }
    return some;
  };
  Statistics of_row = statistics(a.norm, a.width, sum);
  To *to = static_cast<To *>(a.to) + size_t(row) * a.stride;
  for (unsigned column = 4 * lane(); column < a.width; column += 4 * WARP) {
    store_four(to + column, normed(a.norm, of_row, a.width, column, sum(column)));
  }
}

template <typename T> __device__ inline void embed(const EmbeddingArguments &a) { embed_rows<T, T>(a); }
template <typename T> __device__ inline void embed_wide(const EmbeddingArguments &a) { embed_rows<T, float>(a); }
FOR_NUMBERS(embed, EmbeddingArguments)
FOR_HALVES(embed_wide, EmbeddingArguments)
