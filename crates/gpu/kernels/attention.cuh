// Attention on tensor cores, in f16 or bf16 with sums in f32: packed rows, one block of threads for 64 queries of a sequence and one
// head. Keys and values pass by in tiles, and what was summed is scaled whenever a row meets a larger score (online softmax).
#pragma once

#include "rows.cuh"

struct AttentionArguments {
  const void *projected; // rows of all heads' queries, keys and values
  void *context;         // rows of all heads' results
  const uint32_t *tiles; // [blocks, 4]: a sequence's first row, its length (0: nothing to do), the first query, nothing
  const float *bias;     // [heads, 2 · bias_longest - 1], by the key's place less the query's; or null
  uint32_t projected_stride, context_stride;
  uint32_t heads, key_heads, size;
  uint32_t before, after; // how far a query sees
  uint32_t bias_longest;
  float scale;
};

constexpr unsigned QUERIES = 64;

// Some neighbouring rows of a head into shared memory; what is missing of rows and columns is zero.
template <typename T, int SIZE, int ROWS>
__device__ inline void bring(T *to, const T *from, unsigned stride, unsigned rows, unsigned size) {
  constexpr unsigned GROUPS = SIZE / 8, TO_STRIDE = SIZE + 8;
  bool aligned = size % 8 == 0;
  for (unsigned place = thread_index(); place < ROWS * GROUPS; place += thread_count()) {
    unsigned row = place / GROUPS, column = place % GROUPS * 8;
    PackedEight<T> eight;
    if (row < rows && aligned && column < size) {
      eight = *reinterpret_cast<const PackedEight<T> *>(from + size_t(row) * stride + column);
    } else {
      for (unsigned i = 0; i < 8; i++) {
        bool is_there = row < rows && column + i < size;
        eight.at[i] = is_there ? from[size_t(row) * stride + column + i] : from_float<T>(0.0f);
      }
    }
    *reinterpret_cast<PackedEight<T> *>(to + row * TO_STRIDE + column) = eight;
  }
}

// Keys from the first one that some of these queries sees, rounded down to a tile, to the last one.
struct KeyRange {
  unsigned first, end;
};

__device__ inline KeyRange keys_of(const AttentionArguments &a, unsigned first_query, unsigned end_query, unsigned length, unsigned tile) {
  unsigned first = first_query > a.before ? first_query - a.before : 0;
  unsigned last = end_query - 1;
  unsigned end = a.after >= length - last ? length : last + a.after + 1;
  return {first / tile * tile, end};
}

// A score's bias, or minus infinity where the query does not see the key.
__device__ inline float added_to_score(const AttentionArguments &a, const float *bias, unsigned query, unsigned key, unsigned length) {
  bool hidden = key >= length || (key < query ? query - key > a.before : key - query > a.after);
  if (hidden) {
    return -INFINITY;
  }
  // Rows beyond the last query have none; what becomes of them is not stored.
  return bias == nullptr || query >= length ? 0.0f : bias[a.bias_longest - 1 + key - query];
}

// Whether each of these queries sees all of these keys.
__device__ inline bool sees_all(const AttentionArguments &a, unsigned first_query, unsigned end_query, unsigned first_key, unsigned keys) {
  unsigned last_query = end_query - 1, last_key = first_key + keys - 1;
  return (last_key <= first_query || last_key - first_query <= a.after) && (last_query <= first_key || last_query - first_key <= a.before);
}

// SIZE: columns of a head, rounded up. KEYS: keys of a tile.
template <typename T, int SIZE, int KEYS> __device__ inline void attend(const AttentionArguments &a) {
  constexpr int STRIDE = SIZE + 8;
  const uint32_t *tile = a.tiles + 4 * size_t(block_x());
  unsigned first_row = tile[0], length = tile[1], first_query = tile[2], head = block_y();
  if (length == 0) {
    return;
  }
  T *queries = reinterpret_cast<T *>(shared_memory());
  T *keys = queries + QUERIES * STRIDE, *values = keys + KEYS * STRIDE;
  unsigned key_head = head / (a.heads / a.key_heads);
  const T *rows = static_cast<const T *>(a.projected) + size_t(first_row) * a.projected_stride;
  const T *key_rows = rows + size_t(a.heads + key_head) * a.size;
  const T *value_rows = rows + size_t(a.heads + a.key_heads + key_head) * a.size;
  unsigned end_query = min(first_query + QUERIES, length);
  bring<T, SIZE, QUERIES>(queries, rows + size_t(first_query) * a.projected_stride + size_t(head) * a.size,
                          a.projected_stride, end_query - first_query, a.size);
  const float *bias = a.bias == nullptr ? nullptr : a.bias + size_t(head) * (2 * a.bias_longest - 1);

  // A warp has 16 queries; of these, a thread has two rows and two columns of every eight.
  unsigned warp = thread_index() / WARP, row = lane() / 4, column = lane() % 4 * 2;
  unsigned query = first_query + warp * 16 + row;
  unsigned matrix = lane() / 8, line = lane() % 8;
  const T *query_line = queries + (warp * 16 + (matrix & 1) * 8 + line) * STRIDE + (matrix >> 1) * 8;
  const T *key_line = keys + ((matrix >> 1) * 8 + line) * STRIDE + (matrix & 1) * 8;
  const T *value_line = values + ((matrix & 1) * 8 + line) * STRIDE + (matrix >> 1) * 8;
  float context[SIZE / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // All of these are the same for a whole warp, so that its threads stay together.
  bool has_queries = first_query + warp * 16 < length;
  KeyRange range = keys_of(a, first_query, end_query, length, KEYS);
  for (unsigned first_key = range.first; first_key < range.end; first_key += KEYS) {
    meet();
    unsigned there = min(unsigned(KEYS), length - first_key);
    bring<T, SIZE, KEYS>(keys, key_rows + size_t(first_key) * a.projected_stride, a.projected_stride, there, a.size);
    bring<T, SIZE, KEYS>(values, value_rows + size_t(first_key) * a.projected_stride, a.projected_stride, there, a.size);
    meet();
    if (!has_queries) {
      continue;
    }

    float scores[KEYS / 8][4] = {};
    UNROLL
    for (int step = 0; step < SIZE / 16; step++) {
      uint32_t of_queries[4];
      load_matrices(of_queries, query_line + step * 16);
      UNROLL
      for (int pair = 0; pair < KEYS / 16; pair++) {
        if (unsigned(pair * 16) < there) {
          uint32_t of_keys[4];
          load_matrices(of_keys, key_line + pair * 16 * STRIDE + step * 16);
          multiply_add<T>(scores[2 * pair], of_queries, of_keys[0], of_keys[1]);
          multiply_add<T>(scores[2 * pair + 1], of_queries, of_keys[2], of_keys[3]);
        }
      }
    }

    float most[2] = {-INFINITY, -INFINITY};
    if (bias == nullptr && sees_all(a, first_query, end_query, first_key, there)) {
      UNROLL
      for (int group = 0; group < KEYS / 8; group++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
          bool is_there = there == KEYS || group * 8 + column + i % 2 < there;
          scores[group][i] = is_there ? scores[group][i] * a.scale : -INFINITY;
          most[i / 2] = fmaxf(most[i / 2], scores[group][i]);
        }
      }
    } else {
      UNROLL
      for (int group = 0; group < KEYS / 8; group++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
          unsigned key = first_key + group * 8 + column + i % 2;
          scores[group][i] = fmaf(scores[group][i], a.scale, added_to_score(a, bias, query + i / 2 * 8, key, length));
          most[i / 2] = fmaxf(most[i / 2], scores[group][i]);
        }
      }
    }
    float base[2];
    UNROLL
    for (int half_of = 0; half_of < 2; half_of++) {
      most[half_of] = fmaxf(most[half_of], exchange(most[half_of], 1));
      most[half_of] = fmaxf(most[half_of], exchange(most[half_of], 2));
      float now = fmaxf(largest[half_of], most[half_of]);
      // A row may see none of these keys, and none before.
      base[half_of] = now == -INFINITY ? 0.0f : now;
      float factor = quick_exp(largest[half_of] - base[half_of]);
      largest[half_of] = now;
      total[half_of] *= factor;
      UNROLL
      for (int group = 0; group < SIZE / 8; group++) {
        context[group][2 * half_of] *= factor;
        context[group][2 * half_of + 1] *= factor;
      }
    }

    UNROLL
    for (int pair = 0; pair < KEYS / 16; pair++) {
      if (unsigned(pair * 16) >= there) {
        continue;
      }
      UNROLL
      for (int i = 0; i < 8; i++) {
        float &score = scores[2 * pair + i / 4][i % 4];
        score = quick_exp(score - base[i % 4 / 2]);
        total[i % 4 / 2] += score;
      }
      float(&low)[4] = scores[2 * pair], (&high)[4] = scores[2 * pair + 1];
      uint32_t shares[4] = {pack<T>(low[0], low[1]), pack<T>(low[2], low[3]), pack<T>(high[0], high[1]), pack<T>(high[2], high[3])};
      UNROLL
      for (int part = 0; part < SIZE / 16; part++) {
        uint32_t of_values[4];
        load_matrices_turned(of_values, value_line + pair * 16 * STRIDE + part * 16);
        multiply_add<T>(context[2 * part], shares, of_values[0], of_values[1]);
        multiply_add<T>(context[2 * part + 1], shares, of_values[2], of_values[3]);
      }
    }
  }
  if (!has_queries) {
    return;
  }

  UNROLL
  for (int half_of = 0; half_of < 2; half_of++) {
    total[half_of] += exchange(total[half_of], 1);
    total[half_of] += exchange(total[half_of], 2);
    unsigned of_row = query + half_of * 8;
    if (of_row >= length) {
      continue;
    }
    float share = 1.0f / total[half_of];
    T *to = static_cast<T *>(a.context) + size_t(first_row + of_row) * a.context_stride + size_t(head) * a.size;
    UNROLL
    for (int group = 0; group < SIZE / 8; group++) {
      unsigned to_column = group * 8 + column;
      float x = context[group][2 * half_of] * share, y = context[group][2 * half_of + 1] * share;
      if (a.size % 2 == 0 && to_column < a.size) {
        *reinterpret_cast<uint32_t *>(to + to_column) = pack<T>(x, y);
      } else {
        if (to_column < a.size) {
          to[to_column] = from_float<T>(x);
        }
        if (to_column + 1 < a.size) {
          to[to_column + 1] = from_float<T>(y);
        }
      }
    }
  }
}

#define ATTENTION(SIZE, KEYS)                                                                                              \
  template <typename T> __device__ inline void attend_##SIZE(const AttentionArguments &a) { attend<T, SIZE, KEYS>(a); }     \
  FOR_HALVES(attend_##SIZE, AttentionArguments)
ATTENTION(32, 64)
ATTENTION(64, 64)
ATTENTION(80, 64)
ATTENTION(96, 64)
ATTENTION(128, 64)
ATTENTION(256, 32)
