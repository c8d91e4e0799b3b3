// One vector of each sequence's states.
#pragma once

#include "rows.cuh"

// As `Pooling` in Rust numbers them.
enum Pooling : uint32_t { MEAN = 0, FIRST = 1, LAST = 2 };

struct PoolingArguments {
  const void *states;
  const uint32_t *sequences; // first row and length of each
  float *to;                 // [sequences, width]
  uint32_t width, stride, mode;
};

// Blocks in the first direction, of which there may be more, are sequences; a thread has a column.
template <typename T> __device__ inline void pool(const PoolingArguments &a) {
  unsigned column = block_y() * thread_count() + thread_index(), sequence = block_x();
  if (column >= a.width) {
    return;
  }
  uint32_t first = a.sequences[2 * sequence], length = a.sequences[2 * sequence + 1];
  const T *from = static_cast<const T *>(a.states) + size_t(first) * a.stride + column;
  float result = 0.0f;
  if (length > 0 && a.mode != MEAN) {
    result = to_float(from[a.mode == FIRST ? size_t(0) : size_t(length - 1) * a.stride]);
  } else if (length > 0) {
    // By stretches, and those then: the states of a word that is repeated are so much alike that one long sum would err the
    // same way in each step.
    for (uint32_t stretch = 0; stretch < length; stretch += 64) {
      float sum = 0.0f;
      for (uint32_t row = stretch; row < min(stretch + 64, length); row++) {
        sum += to_float(from[size_t(row) * a.stride]);
      }
      result += sum;
    }
    result /= length;
  }
  a.to[size_t(sequence) * a.width + column] = result;
}
FOR_NUMBERS(pool, PoolingArguments)
