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

constexpr unsigned STRETCH = 64;

// Blocks in the first direction, of which there may be more, are sequences. A warp has 32 columns, and every fourth stretch of rows.
template <typename T> __device__ inline void pool(const PoolingArguments &a) {
  float *sums = reinterpret_cast<float *>(shared_memory());
  unsigned warps = thread_count() / WARP, warp = thread_index() / WARP, sequence = block_x();
  unsigned column = block_y() * WARP + lane();
  uint32_t first = a.sequences[2 * sequence], length = a.sequences[2 * sequence + 1];
  const T *from = static_cast<const T *>(a.states) + size_t(first) * a.stride + column;
  float result = 0.0f;
  if (column < a.width && length > 0) {
    if (a.mode != MEAN) {
      result = to_float(from[a.mode == FIRST ? size_t(0) : size_t(length - 1) * a.stride]);
    }
    // By stretches, and those then: the states of a word that is repeated are so much alike that one long sum would err the
    // same way in each step.
    for (uint32_t stretch = STRETCH * warp; a.mode == MEAN && stretch < length; stretch += STRETCH * warps) {
      float sum = 0.0f;
      for (uint32_t row = stretch; row < min(stretch + STRETCH, length); row++) {
        sum += to_float(from[size_t(row) * a.stride]);
      }
      result += sum;
    }
  }
  sums[thread_index()] = result;
  meet();
  if (warp > 0 || column >= a.width) {
    return;
  }
  if (a.mode == MEAN && length > 0) {
    for (unsigned other = 1; other < warps; other++) {
      result += sums[other * WARP + lane()];
    }
    result /= length;
  }
  a.to[size_t(sequence) * a.width + column] = result;
}
FOR_NUMBERS(pool, PoolingArguments)
