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

template <typename T> __device__ inline void activate(const ActivationArguments &a) {
  unsigned row = row_of_warp();
  if (row >= a.rows) {
    return;
  }
  const T *from = static_cast<const T *>(a.from) + size_t(row) * a.from_stride;
  T *to = static_cast<T *>(a.to) + size_t(row) * a.to_stride;
  // Eight columns at a time, as the width is a multiple of 8.
  for (unsigned column = 8 * lane(); column < a.width; column += 8 * WARP) {
    Four some[2] = {load_four(from + column), load_four(from + column + 4)}, factors[2];
    if (a.gate != 0) {
      factors[0] = load_four(from + a.gate + column);
      factors[1] = load_four(from + a.gate + column + 4);
    }
    UNROLL
    for (unsigned part = 0; part < 2; part++) {
      UNROLL
      for (unsigned i = 0; i < 4; i++) {
        float x = activated(a.activation, some[part].at[i]);
        some[part].at[i] = a.gate == 0 ? x : x * factors[part].at[i];
      }
      store_four(to + column + 4 * part, some[part]);
    }
  }
}
FOR_NUMBERS(activate, ActivationArguments)
