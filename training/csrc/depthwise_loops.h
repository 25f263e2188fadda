// The loops of depthwise.c for rows of one type. Wanted: Element; NAME(function); WIDEN(pointer), a vector of floats;
// NARROW(pointer, floats), which writes one.

// y[t] = bias + sum over k of taps[k] * x[t + k - taps / 2]; with `flip` the taps run backwards (the gradient of x).
VERSIONS void NAME(depthwise)(const Element* x, const float* taps, const float* bias, Element* y, long batch,
                              long frames, long channels, long count, long flip) {
  const long before = count / 2;
  for (long item = 0; item < batch; item++) {
    for (long c = 0; c < channels; c += LANES) {
      const Element* in = x + item * frames * channels + c;
      Element* out = y + item * frames * channels + c;
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
VERSIONS void NAME(depthwise_gradient)(const Element* x, const Element* g, float* dtaps, float* dbias, long batch,
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
        const Element* in = x + item * frames * channels + c;
        const Element* gradient = g + item * frames * channels + c;
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
