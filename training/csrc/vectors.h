// Plain vector types: the compiler makes a version of a function for each level of the instruction set, and the loader
// takes the best that the machine has.
#include <stdint.h>

enum { LANES = 16 };

typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VERSIONS __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define VERSIONS
#endif

#define INLINE static inline __attribute__((always_inline))

// Sixteen floats; macros, since a function with vectors has another binary interface on each level.
#define AT(pointer) (*(Floats*)(pointer))
#define LOAD(pointer) (*(const Floats*)(pointer))

INLINE float sum(const Floats* floats) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += (*floats)[lane];
  return total;
}
