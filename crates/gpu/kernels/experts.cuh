// A feed-forward by a few of several experts.
#pragma once

#include "rows.cuh"

constexpr unsigned MOST_EXPERTS = 128;

struct RouteArguments {
  const void *from;
  const float *weight, *bias; // [experts, width], [experts] or null
  float *shares;              // [rows, experts]: the probability, or 0 for an expert that is not taken
  uint32_t rows, width, from_stride, experts, taken;
};

template <typename T> __device__ inline void route(const RouteArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  const T *from = static_cast<const T *>(a.from) + size_t(row) * a.from_stride;
  float scores[MOST_EXPERTS], largest = -INFINITY;
  for (unsigned expert = 0; expert < a.experts; expert++) {
    float sum = 0.0f;
    for (unsigned column = lane(); column < a.width; column += WARP) {
      sum = fmaf(to_float(from[column]), a.weight[size_t(expert) * a.width + column], sum);
    }
    scores[expert] = sum_of_warp(sum) + (a.bias == nullptr ? 0.0f : a.bias[expert]);
    largest = fmaxf(largest, scores[expert]);
  }
  float total = 0.0f;
  for (unsigned expert = 0; expert < a.experts; expert++) {
    total += expf(scores[expert] - largest);
  }
  for (unsigned expert = lane(); expert < a.experts; expert += WARP) {
    // How many are ahead of it: the first of equals is.
    unsigned ahead = 0;
    for (unsigned other = 0; other < a.experts; other++) {
      ahead += scores[other] > scores[expert] || (scores[other] == scores[expert] && other < expert);
    }
    a.shares[size_t(row) * a.experts + expert] = ahead < a.taken ? expf(scores[expert] - largest) / total : 0.0f;
  }
}
FOR_NUMBERS(route, RouteArguments)

struct WidenArguments {
  const void *from;  // or null: `to` itself
  const float *bias; // or null
  float *to;         // rows of `from` and the bias
  uint32_t rows, width, from_stride, to_stride;
};

template <typename T> __device__ inline void widen(const WidenArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  float *to = a.to + size_t(row) * a.to_stride;
  for (unsigned column = 4 * lane(); column < a.width; column += 4 * WARP) {
    Four some;
    if (a.from == nullptr) {
      some = load_four(to + column);
    } else {
      some = load_four(static_cast<const T *>(a.from) + size_t(row) * a.from_stride + column);
    }
    for (unsigned i = 0; i < 4; i++) {
      some.at[i] += a.bias == nullptr || column + i >= a.width ? 0.0f : a.bias[column + i];
    }
    store_four(to + column, some);
  }
}
FOR_NUMBERS(widen, WidenArguments)

struct AddShareArguments {
  const void *from;    // what one expert made of all rows
  const float *shares; // [rows, experts]
  float *to;
  uint32_t rows, width, from_stride, to_stride, experts, expert;
};

template <typename T> __device__ inline void add_share(const AddShareArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  float share = a.shares[size_t(row) * a.experts + a.expert];
  // Not even with 0: what an expert makes of rows that are not its own may be infinite.
  if (share == 0.0f) {
    return;
  }
  const T *from = static_cast<const T *>(a.from) + size_t(row) * a.from_stride;
  float *to = a.to + size_t(row) * a.to_stride;
  for (unsigned column = 4 * lane(); column < a.width; column += 4 * WARP) {
    Four some = load_four(from + column), sum = load_four(to + column);
    for (unsigned i = 0; i < 4; i++) {
      sum.at[i] = fmaf(some.at[i], share, sum.at[i]);
    }
    store_four(to + column, sum);
  }
}
FOR_NUMBERS(add_share, AddShareArguments)
