// What kernels are written in: CUDA's own words where nvcc compiles them, and an emulation of these elsewhere.
#pragma once

#ifdef __CUDACC__
#include "nvidia.cuh"
#else
#include "emulated.hpp"
#endif

// A kernel for each kind of numbers: <name>_f32, _f16 and _bf16, of the template <name><T>, whose argument is one structure.
#define FOR_HALVES(name, Arguments)                                                                                        \
  KERNEL(name##_f16, Arguments, name<half>)                                                                                \
  KERNEL(name##_bf16, Arguments, name<bfloat16>)
#define FOR_NUMBERS(name, Arguments)                                                                                       \
  KERNEL(name##_f32, Arguments, name<float>)                                                                               \
  FOR_HALVES(name, Arguments)
