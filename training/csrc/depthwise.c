// Depthwise convolution over time on rows of bfloat16 or float32, [batch][frames][channels], with float32 taps
// [taps][channels] and float32 sums; channels is a multiple of 16. Plain vector types: the compiler makes a version for
// each level of the instruction set, and the loader takes the best that the machine has.
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

#define Element uint16_t
#define NAME(function) function##_bfloat16
#define WIDEN(pointer) ((Floats)(__builtin_convertvector(*(const Halves*)(pointer), Words) << 16))

// To nearest, ties to even, as PyTorch rounds.
#define NARROW(pointer, value)                                    \
  do {                                                            \
    Words bits_ = (Words)(value);                                 \
    bits_ = (bits_ + 0x7fff + ((bits_ >> 16) & 1)) >> 16;         \
    *(Halves*)(pointer) = __builtin_convertvector(bits_, Halves); \
  } while (0)

#include "depthwise_loops.h"

#undef Element
#undef NAME
#undef WIDEN
#undef NARROW
#define Element float
#define NAME(function) function##_float32
#define WIDEN(pointer) (*(const Floats*)(pointer))
#define NARROW(pointer, value) (*(Floats*)(pointer) = (value))

#include "depthwise_loops.h"
