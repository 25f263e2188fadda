// The passes of denominator.py over the frames of a batch, float32. A state is [last token][utterance][2][columns]: in
// the token itself and in the blank behind it, for each token before, padded with zeros to `columns`, a multiple of 16.
#include <string.h>

#include "vectors.h"

enum { ROWS = 6 };  // so many side by side share what is loaded, and fit the registers of AVX2

// out[rows][wide] = left[rows][halves][columns] · right[halves][depth][wide], of each half the first `depth` columns
INLINE void multiply_rows(int rows, const float* left, const float* right, float* out, long halves, long columns,
                          long depth, long wide) {
  for (long c = 0; c < wide; c += LANES) {
    Floats sums[ROWS];
    for (int r = 0; r < rows; r++) sums[r] = (Floats){0};
    for (long half = 0; half < halves; half++) {
      for (long k = 0; k < depth; k++) {
        const Floats shared = LOAD(right + (half * depth + k) * wide + c);
        for (int r = 0; r < rows; r++) sums[r] += left[(r * halves + half) * columns + k] * shared;
      }
    }
    for (int r = 0; r < rows; r++) AT(out + r * wide + c) = sums[r];
  }
}

INLINE void multiply(long rows, const float* left, const float* right, float* out, long halves, long columns,
                     long depth, long wide) {
  for (; rows >= ROWS; rows -= ROWS, left += ROWS * halves * columns, out += ROWS * wide) {
    multiply_rows(ROWS, left, right, out, halves, columns, depth, wide);
  }
  switch (rows) {  // constants, so that the sums stay in registers
    case 1:
      multiply_rows(1, left, right, out, halves, columns, depth, wide);
      break;
    case 2:
      multiply_rows(2, left, right, out, halves, columns, depth, wide);
      break;
    case 3:
      multiply_rows(3, left, right, out, halves, columns, depth, wide);
      break;
    case 4:
      multiply_rows(4, left, right, out, halves, columns, depth, wide);
      break;
    case 5:
      multiply_rows(5, left, right, out, halves, columns, depth, wide);
      break;
  }
}

// states [frames + 1] states, of which the first is there; emitted [frames][batch][tokens], in place of the last token,
// which is none, the blank; lengths [batch]; moves [token left][2][token before][columns]; scales [frames][batch] are
// what the states of a frame were divided by; moved [tokens][batch][columns] is room.
VERSIONS void denominator_forward(float* states, const float* emitted, const int64_t* lengths, const float* moves,
                                  float* scales, float* moved, long frames, long batch, long tokens, long columns) {
  const long row = 2 * columns, size = tokens * batch * row;
  for (long t = 0; t < frames; t++) {
    const float* state = states + t * size;
    float* following = states + (t + 1) * size;
    for (long p = 0; p < tokens; p++) {
      multiply(batch, state + p * batch * row, moves + p * 2 * tokens * columns, moved + p * batch * columns, 2,
               columns, tokens, columns);
    }
    for (long item = 0; item < batch; item++) {
      const float* heard = emitted + (t * batch + item) * tokens;
      const float blank = heard[tokens - 1];
      const int inside = t < lengths[item];
      Floats total = {0};
      for (long n = 0; n < tokens; n++) {
        const float* before = state + (n * batch + item) * row;
        float* after = following + (n * batch + item) * row;
        if (!inside) {
          memcpy(after, before, row * sizeof(float));
          continue;
        }
        const float likely = n + 1 < tokens ? heard[n] : 0;
        for (long p = 0; p < columns; p++) after[p] = p < tokens ? moved[(p * batch + item) * columns + n] : 0;
        for (long c = 0; c < columns; c += LANES) {
          AT(after + c) = (LOAD(after + c) + LOAD(before + c)) * likely;
          AT(after + columns + c) = (LOAD(before + c) + LOAD(before + columns + c)) * blank;
          total += LOAD(after + c) + LOAD(after + columns + c);
        }
      }
      const float scale = inside ? sum(&total) : 1;
      scales[t * batch + item] = scale;
      for (long n = 0; inside && n < tokens; n++) {
        float* after = following + (n * batch + item) * row;
        for (long c = 0; c < row; c += LANES) AT(after + c) /= scale;
      }
    }
  }
}

// used [frames][batch][tokens] is how much each token, and at last the blank, is in use. rest, a state, is how likely
// what follows is, from behind the last frame on; moves [token left][token left for][2][columns]; inner
// [tokens][batch][columns] and earlier, a state, are room.
VERSIONS void denominator_backward(const float* states, const float* emitted, const int64_t* lengths,
                                   const float* moves, const float* scales, float* used, float* rest, float* inner,
                                   float* earlier, long frames, long batch, long tokens, long columns) {
  const long row = 2 * columns, size = tokens * batch * row;
  for (long t = frames - 1; t >= 0; t--) {
    for (long item = 0; item < batch; item++) {
      const float* heard = emitted + (t * batch + item) * tokens;
      float* use = used + (t * batch + item) * tokens;
      for (long n = 0; n < tokens; n++) use[n] = 0;
      if (t >= lengths[item]) continue;
      const float scale = scales[t * batch + item], blank = heard[tokens - 1] / scale;
      Floats behind = {0};
      for (long n = 0; n < tokens; n++) {
        const float* state = states + (t + 1) * size + (n * batch + item) * row;
        float* values = rest + (n * batch + item) * row;
        const float likely = n + 1 < tokens ? heard[n] / scale : 0;
        Floats inside = {0};
        for (long c = 0; c < columns; c += LANES) {
          inside += LOAD(state + c) * LOAD(values + c);
          behind += LOAD(state + columns + c) * LOAD(values + columns + c);
          AT(values + c) *= likely;
          AT(values + columns + c) *= blank;
        }
        if (n + 1 < tokens) use[n] = sum(&inside);
        for (long p = 0; p < tokens; p++) inner[(p * batch + item) * columns + n] = values[p];
      }
      use[tokens - 1] = sum(&behind);
    }
    for (long p = 0; p < tokens; p++) {
      multiply(batch, inner + p * batch * columns, moves + p * tokens * row, earlier + p * batch * row, 1, columns,
               tokens, row);
    }
    for (long item = 0; item < batch; item++) {
      if (t >= lengths[item]) continue;
      for (long p = 0; p < tokens; p++) {
        const float* arrived = earlier + (p * batch + item) * row;
        float* values = rest + (p * batch + item) * row;
        for (long c = 0; c < columns; c += LANES) {
          const Floats stayed = LOAD(values + c), behind = LOAD(values + columns + c);
          AT(values + c) = LOAD(arrived + c) + stayed + behind;
          AT(values + columns + c) = LOAD(arrived + columns + c) + behind;
        }
      }
    }
  }
}
