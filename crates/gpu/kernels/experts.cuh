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

// Which rows took each expert, in the rows' order, whatever the order of threads: each thread has an expert and a group of rows.
constexpr unsigned GROUP_ROWS = 128;

struct TakersArguments {
  const float *shares; // [rows, experts]
  uint32_t *counts;    // [groups, experts]: how many of a group's rows took an expert
  uint32_t *takers;    // [experts, rows]: the rows that took an expert, in their order
  uint32_t *totals;    // [experts]: how many these are
  uint32_t rows, experts;
};

struct Group {
  unsigned index, expert, first, end; // of rows
};

__device__ inline Group group_of_thread(const TakersArguments &a) {
  unsigned index = block_x() * thread_count() + thread_index(), group = index / a.experts;
  return {group, index % a.experts, group * GROUP_ROWS, min((group + 1) * GROUP_ROWS, a.rows)};
}

// Which of 32 rows took the group's expert: all are asked for at once.
__device__ inline uint32_t takers_of(const TakersArguments &a, const Group &group, unsigned first) {
  uint32_t takers = 0;
  UNROLL
  for (unsigned i = 0; i < 32; i++) {
    float share = first + i < group.end ? a.shares[size_t(first + i) * a.experts + group.expert] : 0.0f;
    takers |= uint32_t(share != 0.0f) << i;
  }
  return takers;
}

__device__ inline void count_group(const TakersArguments &a) {
  Group group = group_of_thread(a);
  if (group.first >= a.rows) {
    return;
  }
  unsigned count = 0;
  for (unsigned first = group.first; first < group.end; first += 32) {
    for (uint32_t takers = takers_of(a, group, first); takers != 0; takers &= takers - 1) {
      count++;
    }
  }
  a.counts[size_t(group.index) * a.experts + group.expert] = count;
}
KERNEL(count_takers, TakersArguments, count_group)

// After they were counted.
__device__ inline void list_group(const TakersArguments &a) {
  Group group = group_of_thread(a);
  if (group.first >= a.rows) {
    return;
  }
  unsigned place = 0;
  for (unsigned before = 0; before < group.index; before++) {
    place += a.counts[size_t(before) * a.experts + group.expert];
  }
  uint32_t *to = a.takers + size_t(group.expert) * a.rows;
  for (unsigned first = group.first; first < group.end; first += 32) {
    uint32_t takers = takers_of(a, group, first);
    for (unsigned i = 0; takers != 0; i++, takers >>= 1) {
      if (takers & 1) {
        to[place++] = first + i;
      }
    }
  }
  if (group.end == a.rows) {
    a.totals[group.expert] = place;
  }
}
KERNEL(list_takers, TakersArguments, list_group)

struct GatherArguments {
  const void *from;
  const uint32_t *takers; // which of its rows
  void *to;
  uint32_t rows, pieces, from_stride, to_stride; // in pieces of 16 bytes
};

__device__ inline void gather_row(const GatherArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  const uint4 *from = static_cast<const uint4 *>(a.from) + size_t(a.takers[row]) * a.from_stride;
  uint4 *to = static_cast<uint4 *>(a.to) + size_t(row) * a.to_stride;
  for (unsigned piece = lane(); piece < a.pieces; piece += WARP) {
    to[piece] = from[piece];
  }
}
KERNEL(gather, GatherArguments, gather_row)

struct AddShareArguments {
  const void *from;       // what one expert made of its rows
  const uint32_t *takers; // which these are, or null: all of them
  const float *shares;    // [rows, experts]
  float *to;
  uint32_t rows, width, from_stride, to_stride, experts, expert; // rows of `from`
};

template <typename T> __device__ inline void add_share(const AddShareArguments &a) {
  unsigned place = row_of_warp();
  if (place >= a.rows) {
    return;
  }
  unsigned row = a.takers == nullptr ? place : a.takers[place];
  float share = a.shares[size_t(row) * a.experts + a.expert];
  // Not even with 0: what an expert makes of rows that are not its own may be infinite.
  if (share == 0.0f) {
    return;
  }
  const T *from = static_cast<const T *>(a.from) + size_t(place) * a.from_stride;
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
