// Depthwise convolution over time on rows of bfloat16 or float32, [batch][frames][channels], with float32 taps
// [taps][channels] and float32 sums; channels is a multiple of 16.
#include "vectors.h"

enum { ROWS = 4, TAPS = 8 };

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
