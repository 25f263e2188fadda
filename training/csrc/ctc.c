// The passes of ctc.py over the frames of each recording of a batch, float32, in natural log. A state is [2][wide]: in
// the blank before each label of the text and behind the last one, and in the label; so that all of a kind move at
// once.
#include <math.h>

#include "vectors.h"

static const float NEVER = -1e30f;  // the logarithm of 0: what is added to it leaves it as it is

INLINE void keep_larger(Floats* a, const Floats* b) {
  const Words other = (Words)(*b > *a);
  *a = (Floats)(((Words)*a & ~other) | ((Words)*b & other));
}

// e to the power of floats up to 0, as Cephes' expf does; below -87 nearly 0
INLINE void exponentials(Floats* floats) {
  const Floats smallest = (Floats){0} - 87.0f;
  keep_larger(floats, &smallest);
  const Floats whole = (*floats * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // nearest, by the mantissa's end
  const Floats x = *floats - whole * 0.693359375f + whole * 2.12194440e-4f;
  Floats y = x * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  *floats = (Floats)((Words)y + ((Words)(whole + 12582912.0f) << 23));
}

// natural logarithms of floats from 1 on, as Cephes' logf does; NaN stays NaN
INLINE void logarithms(Floats* floats) {
  const Words bits = (Words)*floats;
  Floats power = __builtin_convertvector((bits >> 23) - 127, Floats);
  Floats x = (Floats)((bits & 0x7fffff) | 0x3f800000);
  const Words upper = (Words)(x > 1.41421356f);
  x = (Floats)(((Words)x & ~upper) | ((Words)(x * 0.5f) & upper));
  power += (Floats)(0x3f800000 & upper);
  x -= 1.0f;
  Floats y = x * 7.0376836292e-2f - 1.1514610310e-1f;
  y = y * x + 1.1676998740e-1f;
  y = y * x - 1.2420140846e-1f;
  y = y * x + 1.4249322787e-1f;
  y = y * x - 1.6668057665e-1f;
  y = y * x + 2.0000714765e-1f;
  y = y * x - 2.4999993993e-1f;
  y = y * x + 3.3333331174e-1f;
  y = y * x * x * x - power * 2.12194440e-4f - x * x * 0.5f;
  *floats = x + y + power * 0.693359375f + (*floats - *floats);
}

// a becomes the logarithm of the sum of what a, b and c are logarithms of
INLINE void add_likelihoods(Floats* a, const Floats* b, const Floats* c) {
  Floats largest = *a;
  keep_larger(&largest, b);
  keep_larger(&largest, c);
  Floats first = *a - largest, second = *b - largest, third = *c - largest;
  exponentials(&first);
  exponentials(&second);
  exponentials(&third);
  first += second + third;
  logarithms(&first);
  *a = largest + first;
}

// a times another likelihood, in logarithms; never less than NEVER, so that no difference is one of infinities
INLINE void multiply_likelihood(Floats* a, const Floats* by) {
  const Floats never = (Floats){0} + NEVER;
  *a += *by;
  keep_larger(a, &never);
}

INLINE float largest_lane(const Floats* floats) {
  float largest = (*floats)[0];
  for (int lane = 1; lane < LANES; lane++) largest = fmaxf(largest, (*floats)[lane]);
  return largest;
}

// Makes the largest logarithm of a state 0 and returns what it was; so long recordings are as exact as short ones.
INLINE float subtract_largest(float* state, long end, long wide) {
  Floats largest = (Floats){0} + NEVER;
  for (long c = LANES; c < end; c += LANES) {
    keep_larger(&largest, &LOAD(state + c));
    keep_larger(&largest, &LOAD(state + wide + c));
  }
  const float most = largest_lane(&largest);
  if (most < NEVER / 2) return 0;
  for (long c = LANES; c < end; c += LANES) {
    AT(state + c) -= most;
    AT(state + wide + c) -= most;
  }
  return most;
}

// Forward and backward pass of one recording: log_probs [frames][tokens], labels [count]. A row of a state has sixteen
// places, those of the text up to a multiple of sixteen, and sixteen more, so that its neighbours can be read; what is
// not of the text is NEVER. The workspace is frames + 2 states and three rows. Returns the loss, infinite where there
// is no path, and subtracts from gradient [frames][tokens] how much each token is in use at each frame.
INLINE float ctc_recording(const float* log_probs, const int64_t* labels, long frames, long count, long tokens,
                           long wide, float* workspace, float* gradient) {
  const long state = 2 * wide, blank = tokens - 1, end = LANES + count + 1;
  const Floats never = (Floats){0} + NEVER;
  if (!frames) return count ? INFINITY : 0;
  for (long i = 0; i < (frames + 2) * state + 3 * wide; i++) workspace[i] = NEVER;
  float* skips = workspace + (frames + 2) * state;  // 0 where a label may follow the one before without a blank
  float* emitted = skips + wide;                    // by the labels of the text
  float* posterior = emitted + wide;                // of the labels of the text
  for (long i = 1; i < count; i++) {
    if (labels[i] != labels[i - 1]) skips[LANES + i] = 0;
  }

  double log_likelihood = 0;
  workspace[LANES] = log_probs[blank];
  if (count) workspace[wide + LANES] = log_probs[labels[0]];
  for (long t = 1; t < frames; t++) {
    const float* emission = log_probs + t * tokens;
    float* alpha = workspace + t * state;
    const float* before = alpha - state;
    const Floats by_blank = (Floats){0} + emission[blank];
    for (long i = 0; i < count; i++) emitted[LANES + i] = emission[labels[i]];
    for (long c = LANES; c < end; c += LANES) {
      Floats in_blank = LOAD(before + c), in_label = LOAD(before + wide + c);
      const Floats waited = in_blank, left = LOAD(before + wide + c - 1), skipped = left + LOAD(skips + c);
      const Floats by_label = LOAD(emitted + c);
      add_likelihoods(&in_blank, &left, &never);
      add_likelihoods(&in_label, &waited, &skipped);
      multiply_likelihood(&in_blank, &by_blank);
      multiply_likelihood(&in_label, &by_label);
      AT(alpha + c) = in_blank;
      AT(alpha + wide + c) = in_label;
    }
    log_likelihood += subtract_largest(alpha, end, wide);
  }
  const float* last = workspace + (frames - 1) * state;
  const float in_blank = last[end - 1], in_label = count ? last[wide + end - 2] : NEVER;
  const float larger = fmaxf(in_blank, in_label);
  log_likelihood += larger + logf(expf(in_blank - larger) + expf(in_label - larger));
  if (log_likelihood < NEVER / 2) return INFINITY;

  float* beta = workspace + frames * state;  // a text ends behind its last label, or in the blank behind that
  float* earlier = beta + state;
  beta[end - 1] = 0;
  if (count) beta[wide + end - 2] = 0;
  for (long t = frames - 1; t >= 0; t--) {
    const float* emission = log_probs + t * tokens;
    const float* alpha = workspace + t * state;
    float* used = gradient + t * tokens;
    Floats largest = never, in_blanks = {0}, in_labels = {0};
    for (long c = LANES; c < end; c += LANES) {
      const Floats at_blank = LOAD(alpha + c) + LOAD(beta + c);
      const Floats at_label = LOAD(alpha + wide + c) + LOAD(beta + wide + c);
      keep_larger(&largest, &at_blank);
      keep_larger(&largest, &at_label);
    }
    const float most = largest_lane(&largest);
    for (long c = LANES; c < end; c += LANES) {
      Floats at_blank = LOAD(alpha + c) + LOAD(beta + c) - most;
      Floats at_label = LOAD(alpha + wide + c) + LOAD(beta + wide + c) - most;
      exponentials(&at_blank);
      exponentials(&at_label);
      in_blanks += at_blank;
      in_labels += at_label;
      AT(posterior + c) = at_label;
    }
    const float blanks = sum(&in_blanks), all = blanks + sum(&in_labels);
    used[blank] -= blanks / all;
    for (long i = 0; i < count; i++) {
      used[labels[i]] -= posterior[LANES + i] / all;
      emitted[LANES + i] = emission[labels[i]];
    }
    const Floats by_blank = (Floats){0} + emission[blank];
    for (long c = LANES; c < end; c += LANES) {
      const Floats by_label = LOAD(emitted + c);
      multiply_likelihood(&AT(beta + c), &by_blank);
      multiply_likelihood(&AT(beta + wide + c), &by_label);
    }
    for (long c = LANES; c < end; c += LANES) {
      Floats at_blank = LOAD(beta + c), at_label = LOAD(beta + wide + c);
      const Floats stays = at_label, next = LOAD(beta + c + 1);
      const Floats skipped = LOAD(beta + wide + c + 1) + LOAD(skips + c + 1);
      add_likelihoods(&at_blank, &stays, &never);
      add_likelihoods(&at_label, &next, &skipped);
      AT(earlier + c) = at_blank;
      AT(earlier + wide + c) = at_label;
    }
    subtract_largest(earlier, end, wide);
    float* other = beta;
    beta = earlier;
    earlier = other;
  }
  return (float)-log_likelihood;
}

// log_probs [batch][frames][tokens] of recordings of lengths [batch]; labels of all texts, counts [batch] of each; wide
// is that of the longest. Writes losses [batch], 0 where there is no path; gradient [batch][frames][tokens] is 0
// before.
VERSIONS void ctc(const float* log_probs, const int64_t* labels, const int64_t* lengths, const int64_t* counts,
                  float* workspace, float* losses, float* gradient, long batch, long frames, long tokens, long wide) {
  for (long item = 0; item < batch; item++) {
    const float loss = ctc_recording(log_probs + item * frames * tokens, labels, lengths[item], counts[item], tokens,
                                     wide, workspace, gradient + item * frames * tokens);
    losses[item] = isinf(loss) ? 0 : loss;
    labels += counts[item];
  }
}
