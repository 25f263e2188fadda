// Words and phrases that are worth more than the model thinks, while they are being spelled and when they are complete.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "search_model.h"

namespace asr {

// A trie over spellings, with phrases going on behind a word boundary. A prefix holds part of a phrase's boost while it
// spells it, in proportion to what is spelled; at the boundary behind the phrase it owns the boost, and when it leaves
// the phrase it gives the part back.
//
// Where words are pronounced, a place is a pronunciation, which several words may have: what lies behind it depends on
// the word. Hot words that the lexicon does not have say how they sound, and have the numbers behind the lexicon's.
class HotWords {
 public:
  static constexpr uint32_t kStart = 0;             // at the beginning of a word
  static constexpr uint32_t kNone = 0xFFFFFFFF;     // inside a word that is no hot word
  static constexpr uint32_t kAnyWord = 0xFFFFFFFF;  // where words are spelled, a spelling is one word

  struct Ending {  // a word that may end in a place
    uint32_t word;
    uint32_t next_word = kStart;  // the place behind it, where a phrase goes on
    double boost = 0.0;
  };

  // phrases: text and boost (natural log; below 0 makes a phrase less likely). Where words are pronounced, "WRITTEN=
  // WORDS" is a word that sounds like words of the lexicon together. Throws DecoderError for one that cannot be said.
  HotWords(const SearchModel& model, const std::vector<std::pair<std::string, double>>& phrases);

  // The place after one more code, or kNone.
  uint32_t spell(uint32_t place, uint8_t code) const;
  // The hot words that may end here, be they in the lexicon or not.
  const std::vector<Ending>& endings(uint32_t place) const { return place == kNone ? none_ : nodes_[place].endings; }
  // The place after a word boundary.
  uint32_t next_word(uint32_t place, uint32_t word) const;
  double held(uint32_t place) const { return place == kNone ? 0.0 : nodes_[place].held; }
  double boost(uint32_t place, uint32_t word) const;

  struct Word {
    std::string text;
    uint32_t unit;  // the language model's index
  };
  const Word& word(uint32_t number) const { return words_[number]; }  // counted from behind the lexicon's

 private:
  using Spellings = std::vector<std::string>;
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;
    std::vector<Ending> endings;
    double held = 0.0;
  };

  void add_sound(const SearchModel& model, const std::string& phrase);
  void add(const SearchModel& model, const std::string& phrase, double boost);
  uint32_t number_of(const SearchModel& model, std::string_view word) const;
  Spellings spellings_of(const SearchModel& model, std::string_view word, const std::string& phrase) const;
  uint32_t child(uint32_t place, uint8_t code);
  const Ending* ending(uint32_t place, uint32_t word) const;
  Ending& make_ending(uint32_t place, uint32_t word);

  std::vector<Node> nodes_;
  std::vector<Word> words_;
  std::unordered_map<uint32_t, Spellings> sounds_;  // of words that say how they sound
  std::vector<Ending> none_;
};

}  // namespace asr
