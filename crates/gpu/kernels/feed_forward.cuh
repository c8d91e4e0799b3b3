// Between the two products of a feed-forward.
#pragma once

#include "rows.cuh"

// As `Activation` in Rust numbers them.
enum Activation : uint32_t { GELU = 0, GELU_TANH = 1, RELU = 2, SILU = 3 };

__device__ inline float activated(uint32_t activation, float x) {
  switch (activation) {
  case GELU:
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  case GELU_TANH:
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * fmaf(0.044715f * x * x, x, x)));
  case RELU:
    return x < 0.0f ? 0.0f : x; // NaN stays NaN
  default:
    return x / (1.0f + expf(-x));
  }
}

struct ActivationArguments {
  const void *from;
  void *to;       // may be `from`
  uint32_t gate;  // the column of `from` at which factors begin, as many as `width`; 0 for none
  uint32_t rows, width, from_stride, to_stride, activation;
};

// A thread has four columns of a row; the width is a multiple of 4.
template <typename T> __device__ inline void activate(const ActivationArguments &a) {
  size_t place = size_t(block_x()) * thread_count() + thread_index();
  unsigned groups = a.width / 4;
  size_t row = place / groups;
  unsigned column = 4 * unsigned(place % groups);
  if (row >= a.rows) {
    return;
  }
  const T *from = static_cast<const T *>(a.from) + row * a.from_stride;
  Four some = load_four(from + column), factors = {{1.0f, 1.0f, 1.0f, 1.0f}};
  if (a.gate != 0) {
    factors = load_four(from + a.gate + column);
  }
  for (unsigned i = 0; i < 4; i++) {
    some.at[i] = activated(a.activation, some.at[i]) * factors.at[i];
  }
  store_four(static_cast<T *>(a.to) + row * a.to_stride + column, some);
}
FOR_NUMBERS(activate, ActivationArguments)
