// All that a search reads and never writes: tokens, lexicon, language model and the weights between them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "alphabet.h"
#include "language_model.h"
#include "lexicon.h"
#include "pronunciations.h"

namespace asr {

struct Options {
  uint32_t beam_size = 100;
  double beam_threshold = 14.0;
  double token_floor = -7.0;
  double alpha = 1.0;
  double beta = 1.0;
  double unknown_word_penalty = 0.0;  // -inf: words of the lexicon only
  bool end_of_sentence = true;
  bool look_ahead = true;
  bool repeated_spaces = false;    // a space may come again after a blank, without a word between
  double confidence_scale = 1.0;   // of the logarithm of a confidence's odds,
  double confidence_offset = 0.0;  // and what is added to it
  uint32_t n_best = 1;
};

struct SearchModel {
  // words: the lexicon, one word a line, or pronunciations; null takes the language model's words.
  SearchModel(const std::vector<std::string>& tokens, int blank, const std::string* language_model,
              const std::string* words, const Options& options);

  Alphabet alphabet;
  Options options;
  std::unique_ptr<LanguageModel> lm;
  std::unique_ptr<Lexicon> lexicon;
  // Null where words are spelled. Otherwise the lexicon's "words" are the sounds, each of one or more words.
  std::unique_ptr<Pronunciations> pronunciations;
  std::vector<uint32_t> word_units;   // the language model's index of each word that has a pronunciation
  bool open = true;                   // words outside the lexicon may be spelled
  bool scores_tokens = false;         // the language model's units are the tokens, not words
  float open_look_ahead = 0.0f;       // weighted look-ahead of a spelling that left the lexicon
  std::vector<uint32_t> token_units;  // scores_tokens: the language model's index of each token

 private:
  void read_token_units();
  void build_lexicon(const std::string* words);
  void pronounce(const std::string& lines);
  float unigram(uint32_t word) const;
};

}  // namespace asr
