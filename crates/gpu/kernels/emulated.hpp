// The kernels' words on the CPU, where every thread is a fiber: see `emulated.cpp`. `nvidia.cuh` has the same ones for cards,
// and says what they do.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))

// Sixteen bits as they lie in memory.
struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

// Built into CUDA.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

// No templates, so that both operands are of one type here too.
#define MIN_AND_MAX(Number)                                                                                                \
  inline Number min(Number a, Number b) { return b < a ? b : a; }                                                          \
  inline Number max(Number a, Number b) { return a < b ? b : a; }
MIN_AND_MAX(int)
MIN_AND_MAX(unsigned)
MIN_AND_MAX(long)
MIN_AND_MAX(unsigned long)
MIN_AND_MAX(long long)
MIN_AND_MAX(unsigned long long)
#undef MIN_AND_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

namespace emulated {

// A kernel, found by its name.
struct Kernel {
  const char *name;
  size_t arguments_bytes;
  void (*run)(const void *arguments);
  const Kernel *next;
  Kernel(const char *name, size_t arguments_bytes, void (*run)(const void *));
};

// What all threads of a warp do together.
enum class Collective : uint8_t { Exchange, MultiplyAddHalf, MultiplyAddBfloat16, LoadMatrices, LoadMatricesTurned };

// What a thread brings to it, and gets.
struct Operands {
  float value;
  unsigned bits;
  float *sums;
  const uint32_t *a;
  uint32_t b[2];
  const void *row;
  uint32_t *to;
};

struct Block;

struct Thread {
  unsigned index;
  const Block *block;
  Operands operands;
};

struct Block {
  unsigned x, y, threads;
  unsigned char *shared;
};

// The thread that runs. A fiber never moves from one of the host's threads to another while a kernel runs.
static __thread Thread *self;

// Returns once all threads of the warp have called it; `operands` hold the result then.
static void join(Collective collective);
static void meet();

inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

} // namespace emulated

inline float quick_exp(float x) { return expf(x); }

#define UNROLL

#define KERNEL(name, Arguments, ...)                                                                                       \
  static_assert(std::is_trivially_copyable<Arguments>::value && sizeof(Arguments) <= 4096, "a kernel's argument");         \
  static void emulated_run_##name(const void *arguments) {                                                                 \
    __VA_ARGS__(*static_cast<const Arguments *>(arguments));                                                               \
  }                                                                                                                        \
  static const emulated::Kernel emulated_kernel_##name(#name, sizeof(Arguments), emulated_run_##name);

inline unsigned char *shared_memory() { return emulated::self->block->shared; }
inline unsigned thread_index() { return emulated::self->index; }
inline unsigned thread_count() { return emulated::self->block->threads; }
inline unsigned block_x() { return emulated::self->block->x; }
inline unsigned block_y() { return emulated::self->block->y; }

inline void meet() { emulated::meet(); }

inline float exchange(float value, unsigned bits) {
  emulated::Operands &operands = emulated::self->operands;
  operands.value = value;
  operands.bits = bits;
  emulated::join(emulated::Collective::Exchange);
  return operands.value;
}

inline float to_float(float x) { return x; }
inline float to_float(half x) {
  uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  uint32_t bits = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  uint32_t exponent = bits & 0x0f800000;
  bits += (127 - 15) << 23;
  if (exponent == 0x0f800000) { // infinite or no number
    bits += (128 - 16) << 23;
  } else if (exponent == 0) { // subnormal or zero: the leading one is added, and taken away as a float
    bits = emulated::bits_of(emulated::float_of(bits + (1 << 23)) - emulated::float_of(113 << 23));
  }
  return emulated::float_of(sign | bits);
}
inline float to_float(bfloat16 x) { return emulated::float_of(static_cast<uint32_t>(x.bits) << 16); }

template <typename T> inline T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
// What is no number becomes 0x7fff, as on a card.
template <> inline half from_float<half>(float x) {
  uint32_t bits = emulated::bits_of(x);
  uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) {
    return {0x7fff};
  }
  if (bits >= (127 + 16) << 23) {
    return {static_cast<uint16_t>(sign | 0x7c00)};
  }
  if (bits < 113 << 23) { // a subnormal: the sum has its last bit where the result has its own, and is rounded there
    const uint32_t magic = (127 - 15 + 23 - 10 + 1) << 23;
    bits = emulated::bits_of(emulated::float_of(bits) + emulated::float_of(magic)) - magic;
  } else {
    bits = (bits - ((127 - 15) << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
  }
  return {static_cast<uint16_t>(sign | bits)};
}
template <> inline bfloat16 from_float<bfloat16>(float x) {
  uint32_t bits = emulated::bits_of(x);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    return {0x7fff};
  }
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <typename T> inline uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

template <typename T>
inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same<T, half>::value || std::is_same<T, bfloat16>::value, "halves only");
  emulated::Operands &operands = emulated::self->operands;
  operands.sums = sums;
  operands.a = a;
  operands.b[0] = b0;
  operands.b[1] = b1;
  emulated::join(std::is_same<T, half>::value ? emulated::Collective::MultiplyAddHalf
                                              : emulated::Collective::MultiplyAddBfloat16);
}

inline void load_matrices(uint32_t (&to)[4], const void *row) {
  emulated::self->operands.row = row;
  emulated::self->operands.to = to;
  emulated::join(emulated::Collective::LoadMatrices);
}
inline void load_matrices_turned(uint32_t (&to)[4], const void *row) {
  emulated::self->operands.row = row;
  emulated::self->operands.to = to;
  emulated::join(emulated::Collective::LoadMatricesTurned);
}
