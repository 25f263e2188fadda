#include "search_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "errors.h"
#include "scorer_package.h"
#include "text.h"

namespace asr {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

std::unique_ptr<LanguageModel> load(const std::string* path, bool keep_words) {
  return path ? std::make_unique<LanguageModel>(*path, keep_words) : nullptr;
}

bool pronounced(const std::string* words) { return words && Pronunciations::are_in(*words); }

}  // namespace

SearchModel::SearchModel(const std::vector<std::string>& tokens, int blank, const std::string* language_model,
                         const std::string* words, const Options& settings)
    : alphabet(tokens, blank, pronounced(words)), options(settings), lm(load(language_model, words == nullptr)) {
  if (pronounced(words)) {
    pronounce(*words);
    return;
  }
  if (lm) read_token_units();
  std::string packed;
  if (lm && words == nullptr && !lm->has_words()) {
    packed = scorer_words(*language_model, tokens, alphabet, *lm);
    words = &packed;
  }
  build_lexicon(words);
}

// A language model whose every unit is a token (a space may be " ", "|", "▁" or "<space>") scores tokens, not words.
void SearchModel::read_token_units() {
  if (!lm->has_words()) return;
  std::vector<uint32_t> units(alphabet.size(), 0);
  std::set<uint32_t> found;
  const auto look_up = [&](size_t token, const std::string& name) {
    if (units[token] != 0 || lm->index(name) == 0) return;
    units[token] = lm->index(name);
    found.insert(units[token]);
  };
  for (size_t i = 0; i < alphabet.size(); ++i) {
    const Token& token = alphabet.token(i);
    if (i == alphabet.blank()) continue;
    const bool marked = token.starts_word && token.code_count > 0;
    if (!token.text.empty()) look_up(i, marked ? "\xE2\x96\x81" + token.text : token.text);
    if (!token.text.empty()) look_up(i, token.starts_word == marked && !marked ? "##" + token.text : token.text);
    if (i == alphabet.space()) {
      for (const char* name : {"<space>", "|", "\xE2\x96\x81"}) look_up(i, name);
    }
  }
  size_t total = 0;
  lm->each_word([&](std::string_view, uint32_t) { ++total; });
  const bool has_space = alphabet.space() == Alphabet::kNone || units[alphabet.space()] != 0;
  scores_tokens = total > 0 && found.size() == total && has_space;
  if (scores_tokens) token_units = std::move(units);
}

float SearchModel::unigram(uint32_t word) const {
  LanguageModel::State state;
  return lm->score(lm->no_context(), word, &state);
}

void SearchModel::pronounce(const std::string& lines) {
  if (std::isfinite(options.unknown_word_penalty)) {
    throw DecoderError(
        "got an unknown_word_penalty with a lexicon of pronunciations; wanted -inf, since nothing says how a word that "
        "it does not have is written");
  }
  open = false;
  pronunciations = std::make_unique<Pronunciations>(lines, alphabet);
  for (uint32_t word = 0; word < pronunciations->word_count(); ++word) {
    word_units.push_back(lm ? lm->index(pronunciations->word(word)) : 0);
  }
  const bool look = options.look_ahead && lm;
  const auto ahead = [&](uint32_t unit) { return static_cast<float>(options.alpha) * unigram(unit); };
  if (look) open_look_ahead = ahead(0);
  Lexicon::Words spelled;
  for (uint32_t sound = 0; sound < pronunciations->sound_count(); ++sound) {
    float best = look ? kImpossible : 0.0f;
    for (const uint32_t word : pronunciations->homophones(sound)) {
      if (look) best = std::max(best, ahead(word_units[word]));
    }
    spelled.codes += pronunciations->codes(sound);
    spelled.add(sound, best);
  }
  lexicon = std::make_unique<Lexicon>(std::move(spelled), kImpossible);
}

void SearchModel::build_lexicon(const std::string* words) {
  const bool from_lm = words == nullptr && lm && !scores_tokens;
  open = std::isfinite(options.unknown_word_penalty);
  if (!words && !from_lm) {
    open = true;
    return;
  }
  const bool look = options.look_ahead && lm && !scores_tokens;
  if (look) {
    // Without a penalty in a closed vocabulary, where only hot words leave the lexicon.
    open_look_ahead = static_cast<float>(options.alpha * unigram(0) + (open ? options.unknown_word_penalty : 0.0));
  }
  Lexicon::Words spelled;
  const auto add = [&](std::string_view word, uint32_t index) {
    const size_t before = spelled.codes.size();
    if (word.empty() || !alphabet.encode(word, &spelled.codes)) {
      spelled.codes.resize(before);
      return false;
    }
    spelled.add(index, look ? static_cast<float>(options.alpha) * unigram(index) : 0.0f);
    return true;
  };
  if (from_lm) {
    lm->each_word(add);
  } else {
    each_of(*words, [&](std::string_view word) {
      if (!add(word, lm && !scores_tokens ? lm->index(word) : 0)) {
        throw DecoderError("the lexicon's word '" + std::string(word) +
                           "' cannot be spelled with the tokens; leave it out or add tokens");
      }
    });
  }
  if (spelled.entries.empty()) {
    throw DecoderError(
        "no word of the language model can be spelled with the tokens; wanted its words as a lexicon with "
        "pronunciations, or a language model for these tokens");
  }
  lexicon = std::make_unique<Lexicon>(std::move(spelled), open ? open_look_ahead : kImpossible);
}

}  // namespace asr
