// `.scorer` packages of DeepSpeech (0.7 to 0.9) and Coqui STT: a KenLM binary without its words, then two weights, then
// the words as an automaton. KenLM reads the first part in place; here are the other two.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "alphabet.h"
#include "language_model.h"

namespace asr {

struct ScorerWeights {
  double alpha;  // of ln P_LM
  double beta;   // per word
};

// Nothing when the file is no package; throws DecoderError for one that is damaged or of a kind that words cannot be
// taken from.
std::optional<ScorerWeights> scorer_weights(const std::string& path);

// The words of the package, spelled with tokens, one a line. Throws DecoderError for a file that is no package, or
// damaged, or made for other tokens: then its words cannot be spelled or are strangers to its own language model.
std::string scorer_words(const std::string& path, const std::vector<std::string>& tokens, const Alphabet& alphabet,
                         const LanguageModel& lm);

}  // namespace asr
