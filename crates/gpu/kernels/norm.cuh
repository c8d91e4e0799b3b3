// Norms of rows.
#pragma once

#include "rows.cuh"

struct NormArguments {
  const void *from; // f32 for norm_wide, else like `to`
  void *to;
  const void *added; // like `to`, or null: then `to` is the second norm of its rows plus the first norm of `from`
  NormParameters first, second;
  uint32_t rows, width, from_stride, to_stride;
};

template <typename T, typename From> __device__ inline void norm_rows(const NormArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  const From *from = static_cast<const From *>(a.from) + size_t(row) * a.from_stride;
  T *to = static_cast<T *>(a.to) + size_t(row) * a.to_stride;
  auto plain = [&](unsigned column) { return load_four(from + column); };
  Statistics first = statistics(a.first, a.width, plain);
  if (a.added == nullptr) {
    for (unsigned column = 4 * lane(); column < a.width; column += 4 * WARP) {
      store_four(to + column, normed(a.first, first, a.width, column, plain(column)));
    }
    return;
  }
  const T *added = static_cast<const T *>(a.added) + size_t(row) * a.to_stride;
  auto sum = [&](unsigned column) {
    Four some = normed(a.first, first, a.width, column, plain(column)), more = load_four(added + column);
    for (unsigned i = 0; i < 4; i++) {
      some.at[i] += more.at[i];
    }
    return some;
  };
  Statistics second = statistics(a.second, a.width, sum);
  for (unsigned column = 4 * lane(); column < a.width; column += 4 * WARP) {
    store_four(to + column, normed(a.second, second, a.width, column, sum(column)));
  }
}

template <typename T> __device__ inline void norm(const NormArguments &a) { norm_rows<T, T>(a); }
template <typename T> __device__ inline void norm_wide(const NormArguments &a) { norm_rows<T, float>(a); }
FOR_NUMBERS(norm, NormArguments)
FOR_HALVES(norm_wide, NormArguments)

struct AddNormedArguments {
  const void *from;
  float *to; // rows of f32, to which the norms of `from` are added
  NormParameters norm;
  uint32_t rows, width, from_stride, to_stride;
};

template <typename T> __device__ inline void add_normed(const AddNormedArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  const T *from = static_cast<const T *>(a.from) + size_t(row) * a.from_stride;
  float *to = a.to + size_t(row) * a.to_stride;
  auto plain = [&](unsigned column) { return load_four(from + column); };
  Statistics statistics_of_row = statistics(a.norm, a.width, plain);
  for (unsigned column = 4 * lane(); column < a.width; column += 4 * WARP) {
    Four some = normed(a.norm, statistics_of_row, a.width, column, plain(column)), before = load_four(to + column);
    for (unsigned i = 0; i < 4; i++) {
      some.at[i] += before.at[i];
    }
    store_four(to + column, some);
  }
}
FOR_NUMBERS(add_normed, AddNormedArguments)
