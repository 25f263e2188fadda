// Words and phrases that are worth more than the model thinks, while they are being spelled and when they are complete.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "alphabet.h"

namespace asr {

// A trie over spellings, with phrases going on behind a word boundary. A prefix holds part of a phrase's boost while it
// spells it, in proportion to what is spelled; at the boundary behind the phrase it owns the boost, and when it leaves
// the phrase it gives the part back.
class HotWords {
 public:
  static constexpr uint32_t kStart = 0;          // at the beginning of a word
  static constexpr uint32_t kNone = 0xFFFFFFFF;  // inside a word that is no hot word

  // phrases: text and boost (natural log; below 0 makes a phrase less likely).
  HotWords(const Alphabet& alphabet, const std::vector<std::pair<std::string, double>>& phrases);

  // The place after one more code, or kNone.
  uint32_t spell(uint32_t place, uint8_t code) const;
  // The place after a word boundary.
  uint32_t next_word(uint32_t place) const { return place == kNone ? kStart : nodes_[place].next_word; }
  // A hot word may end here, be it in the lexicon or not.
  bool is_word(uint32_t place) const {
    return place != kNone && (nodes_[place].ends || nodes_[place].next_word != kStart);
  }
  double held(uint32_t place) const { return place == kNone ? 0.0 : nodes_[place].held; }
  double boost(uint32_t place) const { return place == kNone || !nodes_[place].ends ? 0.0 : nodes_[place].boost; }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;
    uint32_t next_word = kStart;
    double held = 0.0;
    double boost = 0.0;
    bool ends = false;
  };

  void add(const Alphabet& alphabet, const std::string& phrase, double boost);
  uint32_t child(uint32_t place, uint8_t code);

  std::vector<Node> nodes_;
};

}  // namespace asr
