// Depthwise convolution over time on rows of bfloat16, [batch][frames][channels], with float32 taps [taps][channels]
// and float32 sums; channels is a multiple of 16. Plain vector types: the compiler makes a version for each level of
// the instruction set, and the loader takes the best that the machine has.
#include <stdint.h>

typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));

enum { LANES = 16, ROWS = 4, TAPS = 8 };

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VERSIONS __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define VERSIONS
#endif

#define WIDEN(pointer) ((Floats)(__builtin_convertvector(*(const Halves*)(pointer), Words) << 16))

// To nearest, ties to even, as PyTorch rounds.
#define NARROW(pointer, value)                                    \
  do {                                                            \
    Words bits_ = (Words)(value);                                 \
    bits_ = (bits_ + 0x7fff + ((bits_ >> 16) & 1)) >> 16;         \
    *(Halves*)(pointer) = __builtin_convertvector(bits_, Halves); \
  } while (0)

// y[t] = bias + sum over k of taps[k] * x[t + k - taps / 2]; with `flip` the taps run backwards (the gradient of x).
VERSIONS void depthwise(const uint16_t* x, const float* taps, const float* bias, uint16_t* y, long batch, long frames,
                        long channels, long count, int flip) {
  const long before = count / 2;
  for (long item = 0; item < batch; item++) {
    for (long c = 0; c < channels; c += LANES) {
      const uint16_t* in = x + item * frames * channels + c;
      uint16_t* out = y + item * frames * channels + c;
      for (long t = 0; t < frames; t += ROWS) {  // rows side by side share the loaded taps
        const long rows = frames - t < ROWS ? frames - t : ROWS;
        Floats sums[ROWS];
        for (long r = 0; r < ROWS; r++) sums[r] = bias ? *(const Floats*)(bias + c) : (Floats){0};
        for (long k = 0; k < count; k++) {
          const Floats tap = *(const Floats*)(taps + (flip ? count - 1 - k : k) * channels + c);
          const long from = t + k - before;
          if (from >= 0 && from + ROWS <= frames) {
            for (long r = 0; r < ROWS; r++) sums[r] += tap * WIDEN(in + (from + r) * channels);
          } else {
            for (long r = 0; r < ROWS; r++) {
              if (from + r >= 0 && from + r < frames) sums[r] += tap * WIDEN(in + (from + r) * channels);
            }
          }
        }
        for (long r = 0; r < rows; r++) NARROW(out + (t + r) * channels, sums[r]);
      }
    }
  }
}

// dtaps[k] = sum over items and t of x[t + k - taps / 2] * g[t]; dbias = sum of g.
VERSIONS void depthwise_gradient(const uint16_t* x, const uint16_t* g, float* dtaps, float* dbias, long batch,
                                 long frames, long channels, long count) {
  const long before = count / 2;
  for (long c = 0; c < channels; c += LANES) {
    Floats total = {0};
    for (long row = 0; row < batch * frames; row++) total += WIDEN(g + row * channels + c);
    *(Floats*)(dbias + c) = total;
    for (long first = 0; first < count; first += TAPS) {
      const long some = count - first < TAPS ? count - first : TAPS;
      Floats sums[TAPS];
      for (long j = 0; j < TAPS; j++) sums[j] = (Floats){0};
      for (long item = 0; item < batch; item++) {
        const uint16_t* in = x + item * frames * channels + c;
        const uint16_t* gradient = g + item * frames * channels + c;
        for (long t = 0; t < frames; t++) {
          const Floats value = WIDEN(gradient + t * channels);
          const long from = t + first - before;
          if (from >= 0 && from + TAPS <= frames && some == TAPS) {
            for (long j = 0; j < TAPS; j++) sums[j] += value * WIDEN(in + (from + j) * channels);
          } else {
            for (long j = 0; j < some; j++) {
              if (from + j >= 0 && from + j < frames) sums[j] += value * WIDEN(in + (from + j) * channels);
            }
          }
        }
      }
      for (long j = 0; j < some; j++) *(Floats*)(dtaps + (first + j) * channels + c) = sums[j];
    }
  }
}
