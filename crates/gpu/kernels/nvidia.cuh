// The kernels' words on an NVIDIA GPU. `emulated.hpp` has the same ones for the CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using bfloat16 = __nv_bfloat16;

// Before a loop whose counter chooses registers.
#define UNROLL _Pragma("unroll")

// `extern "C"`, so that the driver finds it by this name.
#define KERNEL(name, Arguments, ...)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128) name(const __grid_constant__ Arguments arguments) {                    \
    __VA_ARGS__(arguments);                                                                                                \
  }

// Memory that the threads of a block share, as much as the launch asked for, at a multiple of 16.
__device__ inline unsigned char *shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

__device__ inline unsigned thread_index() { return threadIdx.x; }
__device__ inline unsigned thread_count() { return blockDim.x; }
__device__ inline unsigned block_x() { return blockIdx.x; }
__device__ inline unsigned block_y() { return blockIdx.y; }

// Waits for all threads of the block; what they wrote is seen then.
__device__ inline void meet() { __syncthreads(); }

// The value of the thread whose place in the warp differs in these bits. All threads of a warp call it together.
__device__ inline float exchange(float value, unsigned bits) { return __shfl_xor_sync(0xffffffffu, value, bits); }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(half x) { return __half2float(x); }
__device__ inline float to_float(bfloat16 x) { return __bfloat162float(x); }

// As exact as numbers of 16 bits need it.
__device__ inline float quick_exp(float x) { return __expf(x); }

// Rounded to the nearest.
template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline half from_float<half>(float x) { return __float2half_rn(x); }
template <> __device__ inline bfloat16 from_float<bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Two numbers in one word, the first in its lower half.
template <typename T> __device__ inline uint32_t pack(float low, float high);
template <> __device__ inline uint32_t pack<half>(float low, float high) {
  __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t *>(&both);
}
template <> __device__ inline uint32_t pack<bfloat16>(float low, float high) {
  __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t *>(&both);
}

// sums[16, 8] += a[16, 16] · b[16, 8], over the warp: PTX's mma.m16n8k16, whose layouts of fragments these are.
template <typename T> __device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void multiply_add<half>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void multiply_add<bfloat16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 × 8 matrices of 16-bit numbers out of shared memory into fragments. Thread 8 i + j of the warp names row j (16 bytes,
// at a multiple of 16) of matrix i. PTX's ldmatrix.x4.
__device__ inline void load_matrices(uint32_t (&to)[4], const void *row) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
// The same, each matrix turned.
__device__ inline void load_matrices_turned(uint32_t (&to)[4], const void *row) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
