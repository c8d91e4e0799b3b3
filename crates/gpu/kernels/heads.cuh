// Queries and keys before attention: normed, and turned by their position.
#pragma once

#include "rows.cuh"

struct HeadsArguments {
  void *projected; // rows of all heads' queries, keys and values
  NormParameters query, key;
  const float *turns; // [positions, cosine and sine, pairs], or null
  const uint32_t *positions;
  uint32_t rows, stride, heads, key_heads, size, pairs;
  uint32_t over_all; // norms are of all heads of a row together, not of each
};

// A warp has the queries or the keys of a row where norms are of all heads, else one head.
template <typename T> __device__ inline void prepare_heads(const HeadsArguments &a) {
  unsigned parts = a.over_all ? 2 : a.heads + a.key_heads;
  unsigned place = row_of_warp(), row = place / parts, part = place % parts;
  if (row >= a.rows) {
    return;
  }
  bool is_key = part >= (a.over_all ? 1 : a.heads);
  unsigned heads = a.over_all ? (is_key ? a.key_heads : a.heads) : 1;
  unsigned first = a.over_all ? (is_key ? a.heads : 0) : part;
  T *from = static_cast<T *>(a.projected) + size_t(row) * a.stride + size_t(first) * a.size;
  const NormParameters &norm = is_key ? a.key : a.query;
  unsigned width = heads * a.size;
  // A head may begin anywhere: one number at a time.
  float mean = 0.0f, factor = 1.0f;
  if (norm.gamma != nullptr) {
    if (!norm.rms) {
      float sum = 0.0f;
      for (unsigned column = lane(); column < width; column += WARP) {
        sum += to_float(from[column]);
      }
      mean = sum_of_warp(sum) / width;
    }
    float squares = 0.0f;
    for (unsigned column = lane(); column < width; column += WARP) {
      float difference = to_float(from[column]) - mean;
      squares = fmaf(difference, difference, squares);
    }
    factor = rsqrtf(sum_of_warp(squares) / width + norm.epsilon);
  }
  auto value = [&](unsigned column) {
    float x = to_float(from[column]);
    if (norm.gamma == nullptr) {
      return x;
    }
    return fmaf((x - mean) * factor, norm.gamma[column], norm.beta == nullptr ? 0.0f : norm.beta[column]);
  };
  unsigned pairs = a.turns == nullptr ? 0 : a.pairs;
  const float *turn = pairs == 0 ? nullptr : a.turns + size_t(a.positions[row]) * 2 * pairs;
  for (unsigned column = lane(); column < width; column += WARP) {
    unsigned of_head = column % a.size;
    if (of_head < pairs) {
      float x = value(column), y = value(column + pairs);
      float cosine = turn[of_head], sine = turn[pairs + of_head];
      from[column] = from_float<T>(fmaf(x, cosine, -(y * sine)));
      from[column + pairs] = from_float<T>(fmaf(y, cosine, x * sine));
    } else if (of_head >= 2 * pairs) {
      from[column] = from_float<T>(value(column));
    }
  }
}
FOR_NUMBERS(prepare_heads, HeadsArguments)
