// All kernels, compiled as one.
#include "attention.cuh"
#include "attention_f32.cuh"
#include "embedding.cuh"
#include "experts.cuh"
#include "feed_forward.cuh"
#include "heads.cuh"
#include "norm.cuh"
#include "pooling.cuh"
