// What kernels share that work on rows: a warp has a row, and each of its threads every 32nd group of four numbers.
//
// Strides are multiples of 8 numbers, so groups of four lie on 8 bytes (16 in f32); columns between a matrix's width and its
// stride are zero, here and wherever a kernel writes.
#pragma once

#include "device.cuh"

constexpr unsigned WARP = 32;

struct Four {
  float at[4];
};

template <typename T> struct alignas(4 * sizeof(T)) PackedFour {
  T at[4];
};

template <typename T> struct alignas(8 * sizeof(T)) PackedEight {
  T at[8];
};

template <typename T> __device__ inline Four load_four(const T *from) {
  PackedFour<T> packed = *reinterpret_cast<const PackedFour<T> *>(from);
  return {{to_float(packed.at[0]), to_float(packed.at[1]), to_float(packed.at[2]), to_float(packed.at[3])}};
}

template <typename T> __device__ inline void store_four(T *to, const Four &values) {
  if constexpr (sizeof(T) == 2) {
    // As words: four numbers would be stored one by one.
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack<T>(values.at[0], values.at[1]), pack<T>(values.at[2], values.at[3]));
  } else {
    *reinterpret_cast<float4 *>(to) = make_float4(values.at[0], values.at[1], values.at[2], values.at[3]);
  }
}

// The row of this thread's warp, of blocks that have one for each of their warps.
__device__ inline unsigned row_of_warp() { return block_x() * (thread_count() / WARP) + thread_index() / WARP; }

__device__ inline unsigned lane() { return thread_index() % WARP; }

// The sum of all threads of a warp, the same bits in each.
__device__ inline float sum_of_warp(float value) {
  for (unsigned bits = WARP / 2; bits > 0; bits /= 2) {
    value += exchange(value, bits);
  }
  return value;
}

// How the values of a row are normed: (x - mean) · factor · gamma + beta.
struct Statistics {
  float mean, factor;
};

// Parameters of a norm; nothing is normed without gamma.
struct NormParameters {
  const float *gamma;
  const float *beta; // or null
  float epsilon;
  uint32_t rms; // of the root mean square: no mean is taken off
};

// Of a row that `values(first column)` gives four columns of. All threads of a warp call it together.
template <typename Values>
__device__ inline Statistics statistics(const NormParameters &norm, unsigned width, const Values &values) {
  if (norm.gamma == nullptr) {
    return {0.0f, 1.0f};
  }
  float mean = 0.0f;
  if (!norm.rms) {
    float sum = 0.0f;
    for (unsigned column = 4 * lane(); column < width; column += 4 * WARP) {
      Four some = values(column);
      sum += (some.at[0] + some.at[1]) + (some.at[2] + some.at[3]);
    }
    mean = sum_of_warp(sum) / width;
  }
  float squares = 0.0f;
  for (unsigned column = 4 * lane(); column < width; column += 4 * WARP) {
    Four some = values(column);
    for (unsigned i = 0; i < 4; i++) {
      float difference = column + i < width ? some.at[i] - mean : 0.0f;
      squares = fmaf(difference, difference, squares);
    }
  }
  return {mean, rsqrtf(sum_of_warp(squares) / width + norm.epsilon)};
}

// Four columns normed; those beyond the width are zero.
__device__ inline Four normed(const NormParameters &norm, const Statistics &row, unsigned width, unsigned column, Four some) {
  if (column + 4 <= width) {
    if (norm.gamma == nullptr) {
      return some;
    }
    Four gamma = load_four(norm.gamma + column), beta = {};
    if (norm.beta != nullptr) {
      beta = load_four(norm.beta + column);
    }
    for (unsigned i = 0; i < 4; i++) {
      some.at[i] = fmaf((some.at[i] - row.mean) * row.factor, gamma.at[i], beta.at[i]);
    }
    return some;
  }
  for (unsigned i = 0; i < 4; i++) {
    if (column + i >= width) {
      some.at[i] = 0.0f;
    } else if (norm.gamma != nullptr) {
      float beta = norm.beta == nullptr ? 0.0f : norm.beta[column + i];
      some.at[i] = fmaf((some.at[i] - row.mean) * row.factor, norm.gamma[column + i], beta);
    }
  }
  return some;
}
