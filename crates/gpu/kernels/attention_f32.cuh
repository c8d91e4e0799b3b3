// Attention in f32, by multiply-adds: a block of threads has 64 queries of a sequence and one head, 16 of them at a time. Eight
// threads share a query.
#pragma once

#include "attention.cuh"

constexpr unsigned QUERIES_AT_ONCE = 16, KEYS_AT_ONCE = 16, SHARE_A_QUERY = 8, MOST_COLUMNS = 256;

// Shared memory: 3 matrices of 16 rows of a head, whose rows are a number longer so that they begin in different banks, and
// [16, 17] scores.
__device__ inline void bring_f32(float *to, const float *from, unsigned stride, unsigned rows, unsigned size) {
  for (unsigned place = thread_index(); place < 16 * size; place += thread_count()) {
    unsigned row = place / size, column = place % size;
    to[row * (size + 1) + column] = row < rows ? from[size_t(row) * stride + column] : 0.0f;
  }
}

__device__ inline void attend_queries(const AttentionArguments &a, unsigned first_row, unsigned length, unsigned first_query, unsigned head) {
  unsigned stride = a.size + 1;
  float *queries = reinterpret_cast<float *>(shared_memory());
  float *keys = queries + 16 * stride, *values = keys + 16 * stride, *shares = values + 16 * stride;
  unsigned key_head = head / (a.heads / a.key_heads);
  const float *rows = static_cast<const float *>(a.projected) + size_t(first_row) * a.projected_stride;
  const float *key_rows = rows + size_t(a.heads + key_head) * a.size;
  const float *value_rows = rows + size_t(a.heads + a.key_heads + key_head) * a.size;
  unsigned end_query = min(first_query + QUERIES_AT_ONCE, length);
  const float *bias = a.bias == nullptr ? nullptr : a.bias + size_t(head) * (2 * a.bias_longest - 1);
  meet();
  bring_f32(queries, rows + size_t(first_query) * a.projected_stride + size_t(head) * a.size, a.projected_stride,
            end_query - first_query, a.size);

  unsigned own = thread_index() / SHARE_A_QUERY, part = thread_index() % SHARE_A_QUERY, query = first_query + own;
  float context[MOST_COLUMNS / SHARE_A_QUERY] = {}, largest = -INFINITY, total = 0.0f;
  KeyRange range = keys_of(a, first_query, end_query, length, KEYS_AT_ONCE);
  for (unsigned first_key = range.first; first_key < range.end; first_key += KEYS_AT_ONCE) {
    meet();
    unsigned there = min(KEYS_AT_ONCE, length - first_key);
    bring_f32(keys, key_rows + size_t(first_key) * a.projected_stride, a.projected_stride, there, a.size);
    bring_f32(values, value_rows + size_t(first_key) * a.projected_stride, a.projected_stride, there, a.size);
    meet();
    float scores[2] = {};
    for (unsigned column = 0; column < a.size; column++) {
      float of_query = queries[own * stride + column];
      scores[0] = fmaf(of_query, keys[part * stride + column], scores[0]);
      scores[1] = fmaf(of_query, keys[(part + 8) * stride + column], scores[1]);
    }
    for (unsigned i = 0; i < 2; i++) {
      scores[i] = fmaf(scores[i], a.scale, added_to_score(a, bias, query, first_key + part + 8 * i, length));
    }
    float most = fmaxf(scores[0], scores[1]);
    for (unsigned bits = 1; bits < SHARE_A_QUERY; bits *= 2) {
      most = fmaxf(most, exchange(most, bits));
    }
    float now = fmaxf(largest, most), base = now == -INFINITY ? 0.0f : now, factor = expf(largest - base);
    largest = now;
    total *= factor;
    for (unsigned i = 0; i < 2; i++) {
      scores[i] = expf(scores[i] - base);
      total += scores[i];
      shares[own * 17 + part + 8 * i] = scores[i];
    }
    meet();
UNROLL
    for (unsigned i = 0; i < MOST_COLUMNS / SHARE_A_QUERY; i++) {
      unsigned column = part + SHARE_A_QUERY * i;
      if (column < a.size) {
        context[i] *= factor;
        for (unsigned key = 0; key < KEYS_AT_ONCE; key++) {
          context[i] = fmaf(shares[own * 17 + key], values[key * stride + column], context[i]);
        }
      }
    }
  }
  for (unsigned bits = 1; bits < SHARE_A_QUERY; bits *= 2) {
    total += exchange(total, bits);
  }
  if (query >= length) {
    return;
  }
  float *to = static_cast<float *>(a.context) + size_t(first_row + query) * a.context_stride + size_t(head) * a.size;
UNROLL
  for (unsigned i = 0; i < MOST_COLUMNS / SHARE_A_QUERY; i++) {
    unsigned column = part + SHARE_A_QUERY * i;
    if (column < a.size) {
      to[column] = context[i] / total;
    }
  }
}

__device__ inline void attend_f32_rows(const AttentionArguments &a) {
  const uint32_t *tile = a.tiles + 4 * size_t(block_x());
  unsigned length = tile[1];
  for (unsigned query = tile[2]; query < min(tile[2] + QUERIES, length); query += QUERIES_AT_ONCE) {
    attend_queries(a, tile[0], length, query, block_y());
  }
}
KERNEL(attend_f32, AttentionArguments, attend_f32_rows)
