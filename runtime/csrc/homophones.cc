// Words that sound alike: what a pronounced word is written as, and one prefix for each.
#include <algorithm>
#include <cmath>

#include "futures.h"
#include "prefix_beam_search.h"

namespace asr {

// All words that a spelling may be, as word_at: several where words are pronounced, in the order of the lexicon, then
// hot words.
void PrefixBeamSearch::words_at(uint32_t trie, uint32_t hot, std::vector<uint32_t>* words) const {
  words->clear();
  if (!model_.pronunciations) {
    const uint32_t word = word_at(trie, hot);
    if (word != kNone) words->push_back(word);
    return;
  }
  const uint32_t sound = trie == kOpen ? Lexicon::kNone : (*model_.lexicon)[trie].word;
  if (sound != Lexicon::kNone) {
    const auto same = model_.pronunciations->homophones(sound);
    words->assign(same.begin(), same.end());
  }
  if (!hot_words_) return;
  for (const HotWords::Ending& ending : hot_words_->endings(hot)) {
    if (std::find(words->begin(), words->end(), ending.word) == words->end()) words->push_back(ending.word);
  }
}

// A closed word's index in the language model; 0 is the unknown word.
uint32_t PrefixBeamSearch::lm_index(uint32_t word) const {
  if (!model_.pronunciations) return word >= kUnknownHot && word != kNone ? 0 : word;
  const size_t known = model_.word_units.size();
  return word < known ? model_.word_units[word] : hot_words_->word(word - static_cast<uint32_t>(known)).unit;
}

// How a pronounced word is written.
const std::string& PrefixBeamSearch::text_of(uint32_t word) const {
  const size_t known = model_.pronunciations->word_count();
  return word < known ? model_.pronunciations->word(word) : hot_words_->word(word - static_cast<uint32_t>(known)).text;
}

// One prefix for every word that sounds so. Of those that go on alike, as they all do without a language model, one
// stands for all where such prefixes are merged: they would arrive in every frame anew.
void PrefixBeamSearch::expand_homophones(uint32_t i, uint32_t token, double mass, double* cut) {
  const Slot& slot = beam_[i];
  words_at(slot.trie, slot.hot, &words_);
  if (words_.size() == 1 && has_living_child(i, token, words_[0])) return;
  homophones_.clear();
  for (const uint32_t word : words_) {
    Homophone homophone{{slot.trie, word, kNone, slot.hot, kNone, 1.0, 0.0}, 0, 1.0, 1.0};
    Step& step = homophone.step;
    if (!follow(i, token, &step)) continue;
    const uint64_t state = step.new_state == kNone ? slot.state : state_hash(new_states_[step.new_state]);
    homophone.future = future_of(token, step.trie, state, step.hot);
    homophone.plain = step.edge * std::exp(-step.hot_gain);
    if (merges_futures_) join(&homophone);
    homophones_.push_back(homophone);
  }
  for (const Homophone& homophone : homophones_) {
    if (homophone.merged == 0.0 || has_living_child(i, token, homophone.step.closed_word)) continue;
    Candidate* candidate = expand_step(i, token, homophone.step, mass, cut);
    if (candidate == nullptr) continue;
    candidate->merged *= static_cast<float>(homophone.merged);
    candidate->trust = static_cast<float>(1.0 / homophone.merged);
  }
}

// Lets the heavier stand for both where one of the others goes on like this one.
void PrefixBeamSearch::join(Homophone* homophone) {
  for (Homophone& other : homophones_) {
    if (other.merged == 0.0 || other.future != homophone->future) continue;
    const bool first = other.step.edge >= homophone->step.edge;
    Homophone &heavier = first ? other : *homophone, &lighter = first ? *homophone : other;
    heavier.merged += lighter.merged * lighter.plain / heavier.plain;
    lighter.merged = 0.0;
    return;
  }
}

}  // namespace asr
