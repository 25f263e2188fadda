// Words that are heard as tokens which do not spell them, such as phonemes: how each sounds, and which sound alike.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "alphabet.h"

namespace asr {

class Pronunciations {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  struct Words {
    const uint32_t *first, *last;
    const uint32_t* begin() const { return first; }
    const uint32_t* end() const { return last; }
    size_t size() const { return static_cast<size_t>(last - first); }
  };

  // Whether a lexicon has pronunciations: then its lines are a word, a tab and tokens.
  static bool are_in(std::string_view lexicon) { return lexicon.find('\t') != std::string_view::npos; }

  // lexicon: a word, a tab and its tokens with spaces between on each line; a word may stand on several lines. Throws
  // DecoderError, which names the line, for one of another form or with a token that the alphabet does not have.
  Pronunciations(std::string_view lexicon, const Alphabet& alphabet);

  // Words have numbers in the order in which the lexicon names them first.
  size_t word_count() const { return words_.size(); }
  const std::string& word(uint32_t number) const { return words_[number].text; }
  uint32_t find(std::string_view word) const;  // its number, or kNone
  // The codes of each pronunciation of a word.
  std::vector<std::string_view> of(uint32_t word) const;

  // Sounds are the different pronunciations.
  size_t sound_count() const { return sounds_.size(); }
  std::string_view codes(uint32_t sound) const { return codes_of(lines_[sounds_[sound].line]); }
  // The words that sound so, in the order of the lexicon.
  Words homophones(uint32_t sound) const {
    const Sound& s = sounds_[sound];
    return {homophones_.data() + s.first_word, homophones_.data() + s.first_word + s.word_count};
  }

 private:
  struct Word {
    std::string text;
    uint32_t first_line, last_line;
  };
  struct Line {
    uint32_t begin, length;  // in codes_
    uint32_t word;
    uint32_t next;  // of the same word, or kNone
  };
  struct Sound {
    uint32_t line, first_word, word_count;
  };

  void read_line(std::string_view line, size_t number, const Alphabet& alphabet);
  void find_homophones();
  std::string_view codes_of(const Line& line) const { return std::string_view(codes_).substr(line.begin, line.length); }

  std::string codes_;
  std::vector<Line> lines_;
  std::vector<Word> words_;
  std::vector<Sound> sounds_;
  std::vector<uint32_t> homophones_;
  std::unordered_map<std::string, uint32_t> numbers_;
};

}  // namespace asr
