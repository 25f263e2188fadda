// What two prefixes must share to go on alike, in one number.
#pragma once

#include <cstdint>

#include "language_model.h"

namespace asr {

inline uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

inline uint64_t state_hash(const LanguageModel::State& state) {
  uint64_t hash = mix(0x8445D61A4E774912u, state.length);
  for (unsigned i = 0; i < state.length; ++i) hash = mix(hash, state.words[i]);
  return hash;
}

// An unknown spelling goes on alike whatever it was; everything else lies in token, lexicon and language model.
inline uint64_t future_of(uint32_t token, uint32_t trie, uint64_t state, uint32_t hot) {
  return mix(state ^ (uint64_t{hot} << 40), (uint64_t{token} << 32) | trie);
}

}  // namespace asr
