#include "hot_words.h"

#include <algorithm>
#include <cmath>

#include "errors.h"
#include "text.h"

namespace asr {
namespace {

constexpr size_t kMostSounds =
    256;  // of one hot word: every pronunciation of its first part with every one of the next

[[noreturn]] void refuse(const std::string& phrase, const std::string& reason) {
  throw DecoderError("the hot word '" + phrase + "' " + reason);
}

[[noreturn]] void refuse_spelling(const Alphabet& alphabet, std::string_view word, const std::string& phrase) {
  const bool sounds = phrase.find('=') != std::string::npos;
  std::string reason =
      "cannot be spelled with the tokens: there is none for '" + std::string(alphabet.unspellable(word)) + "'";
  if (sounds) reason += "; only a lexicon with pronunciations lets a word say how it sounds";
  for (const bool capital : {false, true}) {
    if (!sounds && alphabet.unspellable(in_letters(word, capital)).empty()) {
      reason += capital ? "; write capital letters" : "; write small letters";
      break;
    }
  }
  refuse(phrase, reason);
}

[[noreturn]] void refuse_unheard(const Pronunciations& known, const std::string& word, const std::string& phrase) {
  const std::string reason = "has no pronunciation for '" + word + "'; ";
  for (const bool capital : {false, true}) {
    const std::string other = in_letters(word, capital);
    if (known.find(other) != Pronunciations::kNone) refuse(phrase, reason + "the lexicon writes it '" + other + "'");
  }
  refuse(phrase, reason + "say how it sounds in words of the lexicon: '" + word + "=WORDS'");
}

}  // namespace

HotWords::HotWords(const SearchModel& model, const std::vector<std::pair<std::string, double>>& phrases) : nodes_(1) {
  const auto is_sound = [&](const std::string& phrase) {
    return model.pronunciations && phrase.find('=') != std::string::npos;
  };
  for (const auto& [phrase, boost] : phrases) {
    if (!std::isfinite(boost)) throw DecoderError("the boost of the hot word '" + phrase + "' is not a finite number");
    if (is_sound(phrase)) add_sound(model, phrase);
  }
  for (const auto& [phrase, boost] : phrases) {
    add(model, is_sound(phrase) ? phrase.substr(0, phrase.find('=')) : phrase, boost);
  }
}

uint32_t HotWords::spell(uint32_t place, uint8_t code) const {
  if (place == kNone) return kNone;
  for (const auto& [letter, node] : nodes_[place].children) {
    if (letter == code) return node;
  }
  return kNone;
}

uint32_t HotWords::child(uint32_t place, uint8_t code) {
  const uint32_t found = spell(place, code);
  if (found != kNone) return found;
  const auto added = static_cast<uint32_t>(nodes_.size());
  nodes_[place].children.emplace_back(code, added);
  nodes_.emplace_back();
  return added;
}

const HotWords::Ending* HotWords::ending(uint32_t place, uint32_t word) const {
  for (const Ending& ending : endings(place)) {
    if (ending.word == word || ending.word == kAnyWord) return &ending;
  }
  return nullptr;
}

HotWords::Ending& HotWords::make_ending(uint32_t place, uint32_t word) {
  for (Ending& ending : nodes_[place].endings) {
    if (ending.word == word) return ending;
  }
  return nodes_[place].endings.emplace_back(Ending{word});
}

uint32_t HotWords::next_word(uint32_t place, uint32_t word) const {
  const Ending* found = ending(place, word);
  return found ? found->next_word : kStart;
}

double HotWords::boost(uint32_t place, uint32_t word) const {
  const Ending* found = ending(place, word);
  return found ? found->boost : 0.0;
}

// Where words are spelled, every word is kAnyWord; kNone for one that has neither pronunciation nor sound.
uint32_t HotWords::number_of(const SearchModel& model, std::string_view word) const {
  if (!model.pronunciations) return kAnyWord;
  const uint32_t known = model.pronunciations->find(word);
  if (known != Pronunciations::kNone) return known;
  for (size_t i = 0; i < words_.size(); ++i) {
    if (words_[i].text == word) return static_cast<uint32_t>(model.pronunciations->word_count() + i);
  }
  return kNone;
}

HotWords::Spellings HotWords::spellings_of(const SearchModel& model, std::string_view word,
                                           const std::string& phrase) const {
  Spellings spellings;
  if (!model.pronunciations) {
    if (model.alphabet.encode(word, &spellings.emplace_back())) return spellings;
    refuse_spelling(model.alphabet, word, phrase);
  }
  const uint32_t number = number_of(model, word);
  if (number < model.pronunciations->word_count()) {
    for (const std::string_view codes : model.pronunciations->of(number)) spellings.emplace_back(codes);
  }
  const auto sounds = sounds_.find(number);
  if (sounds != sounds_.end()) spellings.insert(spellings.end(), sounds->second.begin(), sounds->second.end());
  if (spellings.empty()) refuse_unheard(*model.pronunciations, std::string(word), phrase);
  return spellings;
}

// "WRITTEN=WORDS": WRITTEN is said as the words one after the other, in each of their pronunciations.
void HotWords::add_sound(const SearchModel& model, const std::string& phrase) {
  const size_t equals = phrase.find('=');
  std::vector<std::string_view> written, parts;
  each_of(std::string_view(phrase).substr(0, equals), [&](std::string_view word) { written.push_back(word); });
  each_of(std::string_view(phrase).substr(equals + 1), [&](std::string_view word) { parts.push_back(word); });
  if (written.size() != 1 || parts.empty()) refuse(phrase, "wanted one word before '=' and how it sounds behind it");
  Spellings sounds(1);
  for (const std::string_view part : parts) {
    const uint32_t number = model.pronunciations->find(part);
    if (number == Pronunciations::kNone) {
      refuse(phrase, "sounds like '" + std::string(part) + "', which has no pronunciation in the lexicon");
    }
    Spellings longer;
    for (const std::string& sound : sounds) {
      for (const std::string_view codes : model.pronunciations->of(number))
        longer.push_back(sound + std::string(codes));
    }
    if (longer.size() > kMostSounds) refuse(phrase, "has too many pronunciations; wanted fewer words behind '='");
    sounds = std::move(longer);
  }
  uint32_t number = number_of(model, written[0]);
  if (number == kNone) {
    number = static_cast<uint32_t>(model.pronunciations->word_count() + words_.size());
    words_.push_back({std::string(written[0]), model.lm ? model.lm->index(written[0]) : 0});
  }
  Spellings& known = sounds_[number];
  known.insert(known.end(), sounds.begin(), sounds.end());
}

void HotWords::add(const SearchModel& model, const std::string& phrase, double boost) {
  struct Part {
    uint32_t word;
    Spellings spellings;
  };
  std::vector<Part> parts;
  size_t total = 0;  // codes and boundaries; of several pronunciations the first counts
  each_of(phrase, [&](std::string_view word) {
    parts.push_back({number_of(model, word), spellings_of(model, word, phrase)});
    total += parts.back().spellings[0].size() + 1;
  });
  if (parts.empty()) throw DecoderError("got an empty hot word; wanted a word or phrase");
  --total;
  const auto hold = [&](uint32_t place, double spelled) {
    nodes_[place].held = std::max(nodes_[place].held, boost * spelled / static_cast<double>(total));
  };
  uint32_t start = kStart;
  double before = 0.0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto length = static_cast<double>(parts[i].spellings[0].size());
    uint32_t next = kStart;
    std::vector<uint32_t> ends;
    for (const std::string& codes : parts[i].spellings) {
      uint32_t place = start;
      for (size_t k = 0; k < codes.size(); ++k) {
        place = child(place, static_cast<uint8_t>(codes[k]));
        hold(place, before + static_cast<double>(k + 1) * length / static_cast<double>(codes.size()));
      }
      ends.push_back(place);
      if (const Ending* known = ending(place, parts[i].word)) next = std::max(next, known->next_word);
    }
    before += length + 1;
    const bool last = i + 1 == parts.size();
    if (!last && next == kStart) {
      next = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
    }
    if (!last) hold(next, before);
    for (const uint32_t place : ends) {
      Ending& ending = make_ending(place, parts[i].word);
      ending.next_word = next;
      if (last) ending.boost = boost;
    }
    start = next;
  }
}

}  // namespace asr
