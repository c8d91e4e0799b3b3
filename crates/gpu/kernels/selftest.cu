// Kernels that test the emulation of the others. No card gets them.
#include "device.cuh"

struct Selftest {
  const void *a;
  const void *b;
  void *to;
  uint32_t count;
};

// to[16, 8] += a[16, 16] · b[16, 8], all of them in rows.
template <typename T> __device__ inline void selftest_multiply(const Selftest &arguments) {
  const uint16_t *a = static_cast<const uint16_t *>(arguments.a);
  const uint16_t *b = static_cast<const uint16_t *>(arguments.b);
  float *to = static_cast<float *>(arguments.to);
  unsigned group = thread_index() / 4, pair = 2 * (thread_index() % 4);
  float sums[4];
  uint32_t rows[4], columns[2];
  for (unsigned i = 0; i < 4; i++) {
    unsigned row = group + i % 2 * 8, depth = pair + i / 2 * 8;
    rows[i] = a[row * 16 + depth] | static_cast<uint32_t>(a[row * 16 + depth + 1]) << 16;
    sums[i] = to[(group + i / 2 * 8) * 8 + pair + i % 2];
  }
  for (unsigned i = 0; i < 2; i++) {
    columns[i] = b[(pair + i * 8) * 8 + group] | static_cast<uint32_t>(b[(pair + i * 8 + 1) * 8 + group]) << 16;
  }
  multiply_add<T>(sums, rows, columns[0], columns[1]);
  for (unsigned i = 0; i < 4; i++) {
    to[(group + i / 2 * 8) * 8 + pair + i % 2] = sums[i];
  }
}
FOR_HALVES(selftest_multiply, Selftest)

// Four 8 × 8 matrices of a: to[thread][4], and then the same of the turned ones.
__device__ inline void selftest_matrices(const Selftest &arguments) {
  uint4 *shared = reinterpret_cast<uint4 *>(shared_memory());
  // In an order of their own.
  unsigned place = thread_index() * 5 % 32;
  shared[place] = static_cast<const uint4 *>(arguments.a)[thread_index()];
  uint32_t words[4];
  load_matrices(words, &shared[place]);
  memcpy(static_cast<uint4 *>(arguments.to) + thread_index(), words, sizeof words);
  load_matrices_turned(words, &shared[place]);
  memcpy(static_cast<uint4 *>(arguments.to) + 32 + thread_index(), words, sizeof words);
}
KERNEL(selftest_matrices, Selftest, selftest_matrices)

// Every thread gets the sum of its warp.
__device__ inline void selftest_exchange(const Selftest &arguments) {
  unsigned place = block_x() * thread_count() + thread_index();
  float sum = static_cast<const float *>(arguments.a)[place];
  for (unsigned bits = 16; bits > 0; bits /= 2) {
    sum += exchange(sum, bits);
  }
  static_cast<float *>(arguments.to)[place] = sum;
}
KERNEL(selftest_exchange, Selftest, selftest_exchange)

// Turns every block's numbers around, `count` times.
__device__ inline void selftest_meet(const Selftest &arguments) {
  float *shared = reinterpret_cast<float *>(shared_memory());
  unsigned first = (block_y() * 3 + block_x()) * thread_count();
  float mine = static_cast<const float *>(arguments.a)[first + thread_index()];
  for (uint32_t i = 0; i < arguments.count; i++) {
    shared[thread_index()] = mine;
    meet();
    mine = shared[thread_count() - 1 - thread_index()];
    meet();
  }
  static_cast<float *>(arguments.to)[first + thread_index()] = mine;
}
KERNEL(selftest_meet, Selftest, selftest_meet)

// to: floats as halves.
template <typename T> __device__ inline void selftest_round(const Selftest &arguments) {
  for (unsigned i = thread_index(); i < arguments.count; i += thread_count()) {
    static_cast<T *>(arguments.to)[i] = from_float<T>(static_cast<const float *>(arguments.a)[i]);
  }
}
FOR_HALVES(selftest_round, Selftest)

// to: halves as floats.
template <typename T> __device__ inline void selftest_widen(const Selftest &arguments) {
  for (unsigned i = thread_index(); i < arguments.count; i += thread_count()) {
    static_cast<float *>(arguments.to)[i] = to_float(static_cast<const T *>(arguments.a)[i]);
  }
}
FOR_HALVES(selftest_widen, Selftest)

// Mistakes.
__device__ inline void selftest_broken(const Selftest &arguments) {
  bool first = thread_index() == 0;
  float value = 1.0f;
  float sums[4] = {};
  uint32_t words[4] = {};
  switch (arguments.count) {
  case 0: // a warp that ends in part
    if (!first) {
      value = exchange(value, 1);
    }
    break;
  case 1: // one waits for the block, the others for the warp
    if (first) {
      meet();
    } else {
      value = exchange(value, 1);
    }
    break;
  case 2: // two different ones
    if (first) {
      multiply_add<half>(sums, words, 0, 0);
    } else {
      value = exchange(value, 1);
    }
    break;
  case 3: // a block that ends in part
    if (thread_index() < 32) {
      meet();
    }
    break;
  case 4: // beyond shared memory
    shared_memory()[512] = 0;
    break;
  case 5: // a row at no multiple of 16
    load_matrices(words, shared_memory() + 8);
    break;
  case 6: // a row beyond shared memory
    load_matrices(words, shared_memory() + 512);
    break;
  case 7: // different bits
    value = exchange(value, first ? 1 : 2);
    break;
  case 8: // a number nobody wrote
    value = reinterpret_cast<float *>(shared_memory())[127];
    break;
  }
  static_cast<float *>(arguments.to)[thread_index()] = value + to_float(half{static_cast<uint16_t>(words[0])}) + sums[0];
}
KERNEL(selftest_broken, Selftest, selftest_broken)
