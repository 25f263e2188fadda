// What the beam is worth as texts: scores, word times and confidences.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "prefix_beam_search.h"

namespace asr {
namespace {

// A prefix may find a heavier, later alignment after its continuations have moved on; words still follow each other.
void put_in_order(std::vector<WordResult>* words) {
  for (size_t i = words->size(); i-- > 0;) {
    WordResult& word = (*words)[i];
    if (i + 1 < words->size()) word.end = std::min(word.end, (*words)[i + 1].start);
    word.start = std::min(word.start, word.end > 0 ? word.end - 1 : 0);
  }
}

// Shares nearer to 0 or 1 say no more than this: merging counts no smaller rivals. The fit has the same
// bound, LEAST_SHARE of asr_export.calibrate.
constexpr double kLeastShare = 0.002;

// A share of the weight as a confidence, by a line through the logarithms of the odds (Platt 1999).
double confidence_of(double share, const Options& options) {
  const double scale = options.confidence_scale, offset = options.confidence_offset;
  if (scale == 1.0 && offset == 0.0) return std::clamp(share, 0.0, 1.0);
  const double bounded = std::clamp(share, kLeastShare, 1.0 - kLeastShare);
  return 1.0 / (1.0 + std::exp(-scale * std::log(bounded / (1.0 - bounded)) - offset));
}

// What is left where every weight underflowed to 0: no words, at probability 0.
Result impossible() {
  Result result;
  result.score = result.acoustic_score = -std::numeric_limits<double>::infinity();
  return result;
}

}  // namespace

// The weight that ending the text here multiplies by; word: as in Final.
double PrefixBeamSearch::final_factor(const Slot& slot, uint32_t word) const {
  const uint32_t kept = nodes_[slot.node].state;
  double factor = std::exp(hot_end(slot, word));
  LanguageModel::State state;
  if (model_.lm) state = states_[kept];
  if (word == kNone) {
    factor *= std::exp(-look_ahead(slot.trie));
  } else {
    double log_probability = 0.0;
    if (model_.lm && !model_.scores_tokens) {
      const CacheEntry& entry = score(kept, lm_index(word));
      log_probability = entry.log_probability;
      state = entry.state;
    }
    factor *= word_weight(slot.trie, word, log_probability);
  }
  if (!model_.lm || !model_.options.end_of_sentence) return factor;
  LanguageModel::State end;
  return factor * std::exp(model_.options.alpha * model_.lm->score(state, model_.lm->end_of_sentence(), &end));
}

// Tells words apart: the place in the lexicon, or outside of it a hash of the letters.
uint32_t PrefixBeamSearch::spelling_of(uint32_t node, uint32_t trie) const {
  if (trie != kOpen) return trie;
  uint32_t hash = 1;
  for (; node != kRoot && nodes_[node].trie != Lexicon::kRoot; node = nodes_[node].parent) {
    hash = (hash + nodes_[node].token) * 0x9E3779B1u;
    if (model_.alphabet.token(nodes_[node].token).starts_word) break;
  }
  return hash | 0x80000000u;
}

double PrefixBeamSearch::look_ahead(uint32_t trie) const {
  if (!model_.lexicon) return 0.0;
  return trie == kOpen ? model_.open_look_ahead : model_.lexicon->look_ahead(trie);
}

// What hot words gain at the end of the text: the phrase that ends there, less what was held.
double PrefixBeamSearch::hot_end(const Slot& slot, uint32_t word) const {
  if (!hot_words_) return 0.0;
  return (word == kNone ? 0.0 : hot_words_->boost(slot.hot, word)) - hot_words_->held(slot.hot);
}

// The word that a spelling is: the language model's index; kUnknown or kUnknownHot where that is allowed; else kNone.
uint32_t PrefixBeamSearch::word_at(uint32_t trie, uint32_t hot) const {
  const bool in_lexicon = model_.lexicon && trie != kOpen && (*model_.lexicon)[trie].word != Lexicon::kNone;
  if (in_lexicon) return (*model_.lexicon)[trie].word;
  if (hot_words_ && !hot_words_->endings(hot).empty()) return kUnknownHot;
  return model_.open ? kUnknown : kNone;
}

// Living prefixes as whole texts, best first: "a b" and "a b " are the same text and add up.
std::vector<PrefixBeamSearch::Final> PrefixBeamSearch::finals(Ending ending) const {
  std::vector<Final> all;
  double least_credit = std::numeric_limits<double>::infinity();  // e^-credit of many hot words is no double
  for (const Slot& slot : beam_) least_credit = std::min(least_credit, slot.hot_credit);
  const auto add = [&](uint32_t i, uint32_t word, double factor) {
    const double weight = (beam_[i].blank + beam_[i].label) * factor;
    if (!(weight > 0.0 && std::isfinite(weight))) return;  // extreme settings leave the range of a double
    const Node& node = nodes_[beam_[i].node];
    const bool spaced = node.trie == Lexicon::kRoot && node.parent != kNone && !model_.pronunciations;
    const double hot =
        beam_[i].hot_credit - least_credit + (ending == Ending::kUnfinished ? 0.0 : hot_end(beam_[i], word));
    const double mass = weight * beam_[i].merged * std::exp(-hot);
    const double sure = node.trie == Lexicon::kRoot ? mass * node.trust : mass;
    all.push_back({weight, weight, mass, sure, i, spaced ? node.parent : beam_[i].node, word});
  };
  for (uint32_t i = 0; i < beam_.size(); ++i) {
    if (ending == Ending::kUnfinished) {
      add(i, kNone, 1.0);
    } else if (ending == Ending::kDropUnfinished || beam_[i].trie == Lexicon::kRoot) {
      add(i, kNone, final_factor(beam_[i], kNone));
    } else {
      words_at(beam_[i].trie, beam_[i].hot, &words_);
      for (const uint32_t word : words_) add(i, word, final_factor(beam_[i], word));
    }
  }
  if (ending != Ending::kUnfinished && (spells_twice_ || model_.pronunciations)) number_texts(&all);
  add_up(&all);
  return all;
}

// Where words are pronounced, or tokens have several letters, the same text may stand on different tokens. Behind the
// prefix that all have in common only: a recording of ten hours has as many words for each of hundreds of texts.
void PrefixBeamSearch::number_texts(std::vector<Final>* all) const {
  if (all->empty()) return;
  uint32_t stem = beam_[all->front().slot].node;
  for (const Final& final : *all) stem = common(stem, beam_[final.slot].node);
  const std::string before = model_.pronunciations ? "" : text_of_prefix(stem);
  std::map<std::vector<uint32_t>, uint32_t> of_words;
  std::map<std::string, uint32_t> of_texts;
  for (Final& final : *all) {
    const auto number = static_cast<uint32_t>(of_words.size() + of_texts.size());
    if (model_.pronunciations) {
      final.text = of_words.emplace(words_of(final, stem), number).first->second;
    } else {
      std::string text(before, before.empty() ? 0 : before.size() - 1);  // whether a space has to follow
      for (const uint32_t token : path_to(beam_[final.slot].node, true, stem)) append_text(token, &text);
      if (!text.empty() && text.back() == ' ') text.pop_back();
      final.text = of_texts.emplace(std::move(text), number).first->second;
    }
  }
}

// The longest prefix of both.
uint32_t PrefixBeamSearch::common(uint32_t a, uint32_t b) const {
  while (a != b) {
    uint32_t& longer = nodes_[a].depth >= nodes_[b].depth ? a : b;
    longer = nodes_[longer].parent;
  }
  return a;
}

void PrefixBeamSearch::append_text(uint32_t index, std::string* text) const {
  const Token& token = model_.alphabet.token(index);
  if (token.starts_word && !text->empty() && text->back() != ' ') *text += ' ';
  *text += token.text;
}

// What a prefix spells; behind a word that is closed by a token of its own, with a space at the end.
std::string PrefixBeamSearch::text_of_prefix(uint32_t node) const {
  std::string text;
  for (const uint32_t token : path_to(node, true)) append_text(token, &text);
  return text;
}

// Makes one of each text, the heaviest first; of equal ones the first by tokens, then by words.
void PrefixBeamSearch::add_up(std::vector<Final>* all) const {
  std::sort(all->begin(), all->end(),
            [](const Final& a, const Final& b) { return a.text != b.text ? a.text < b.text : a.part > b.part; });
  size_t kept = 0;
  for (const Final& final : *all) {
    if (kept > 0 && (*all)[kept - 1].text == final.text) {
      Final& text = (*all)[kept - 1];
      text.weight += final.weight;
      text.mass += final.mass;
      text.sure += final.sure;
    } else {
      (*all)[kept++] = final;
    }
  }
  all->resize(kept);
  std::sort(all->begin(), all->end(), [this](const Final& a, const Final& b) {
    if (a.weight != b.weight) return a.weight > b.weight;
    const auto a_tokens = path_to(beam_[a.slot].node, true), b_tokens = path_to(beam_[b.slot].node, true);
    return a_tokens != b_tokens ? a_tokens < b_tokens : words_of(a) < words_of(b);
  });
}

// The numbers of a text's words, behind a prefix of it.
std::vector<uint32_t> PrefixBeamSearch::words_of(const Final& final, uint32_t stem) const {
  std::vector<uint32_t> words;
  if (final.word != kNone) words.push_back(final.word);
  for (uint32_t node = beam_[final.slot].node; node != stem; node = nodes_[node].parent) {
    if (nodes_[node].closed_word != kNone) words.push_back(nodes_[node].closed_word);
  }
  std::reverse(words.begin(), words.end());
  return words;
}

// From the root, or a prefix of it, to a prefix: nodes, or their tokens.
std::vector<uint32_t> PrefixBeamSearch::path_to(uint32_t node, bool tokens, uint32_t stem) const {
  std::vector<uint32_t> path;
  for (; node != stem; node = nodes_[node].parent) path.push_back(tokens ? nodes_[node].token : node);
  std::reverse(path.begin(), path.end());
  return path;
}

std::vector<Result> PrefixBeamSearch::results(Ending ending, uint32_t n_best) const {
  std::vector<Final> all = finals(ending);
  if (all.empty() && ending == Ending::kComplete) return results(Ending::kDropUnfinished, n_best);
  if (all.empty() && ending == Ending::kDropUnfinished) return results(Ending::kUnfinished, n_best);
  if (all.empty()) return {impossible()};
  std::vector<Result> out;
  for (size_t i = 0; i < all.size() && out.size() < n_best; ++i) {
    Result result = trace(all[i], ending);
    set_confidences(all, all[i], &result);
    out.push_back(std::move(result));
  }
  return out;
}

Result PrefixBeamSearch::trace(const Final& final, Ending ending) const {
  Result result;
  const std::vector<uint32_t> path = path_to(beam_[final.slot].node, false);
  const auto end_word = [&](uint32_t frame) {
    if (!result.words.empty() && result.words.back().end == 0) result.words.back().end = frame;
  };
  for (const uint32_t index : path) {
    const Node& node = nodes_[index];
    const Token& token = model_.alphabet.token(node.token);
    if (token.starts_word) end_word(node.parent_exit);
    if (model_.pronunciations && node.closed_word != kNone) result.words.back().text = text_of(node.closed_word);
    if (token.code_count == 0) continue;
    if (result.words.empty() || result.words.back().end != 0) result.words.push_back({"", node.entered, 0, 0.0});
    result.words.back().text += token.text;
  }
  end_word(beam_[final.slot].exit);
  put_in_order(&result.words);
  const uint32_t trie = beam_[final.slot].trie;
  const bool drops = ending == Ending::kDropUnfinished || (ending == Ending::kUnfinished && model_.pronunciations);
  if (drops && trie != Lexicon::kRoot && !result.words.empty()) result.words.pop_back();
  if (model_.pronunciations && final.word != kNone) result.words.back().text = text_of(final.word);
  for (const WordResult& word : result.words) result.text += (result.text.empty() ? "" : " ") + word.text;
  result.score = std::log(final.weight) + log_scale_;
  if (ending == Ending::kUnfinished) result.score -= look_ahead(trie);
  set_scores(path, final, ending, &result);
  return result;
}

// Replays the language model over the words (or tokens) of a text and takes its part out of the score.
void PrefixBeamSearch::set_scores(const std::vector<uint32_t>& path, const Final& final, Ending ending,
                                  Result* result) const {
  const Options& options = model_.options;
  const Slot& slot = beam_[final.slot];
  LanguageModel::State state, next;
  if (model_.lm) state = model_.lm->begin();
  double lm_score = 0.0;
  double bonus = slot.hot_credit + (ending == Ending::kUnfinished ? 0.0 : hot_end(slot, final.word));
  const auto add_unit = [&](uint32_t unit) {
    lm_score += model_.lm->score(state, unit, &next);
    state = next;
  };
  const auto add_word = [&](uint32_t word) {
    bonus += options.beta;
    if (word == kUnknown && model_.lexicon) bonus += options.unknown_word_penalty;
    if (model_.lm && !model_.scores_tokens) add_unit(lm_index(word));
  };
  for (const uint32_t index : path) {
    const Node& node = nodes_[index];
    if (node.closed_word != kNone) add_word(node.closed_word);
    if (!model_.scores_tokens || model_.alphabet.token(node.token).code_count == 0) continue;
    const Node& parent = nodes_[node.parent];
    if (parent.token == model_.alphabet.space() && node.parent != kRoot) add_unit(model_.token_units[parent.token]);
    add_unit(model_.token_units[node.token]);
  }
  if (final.word != kNone) add_word(final.word);
  if (ending != Ending::kUnfinished && model_.lm && options.end_of_sentence) add_unit(model_.lm->end_of_sentence());
  result->lm_score = lm_score;
  result->acoustic_score = result->score - options.alpha * lm_score - bonus;
}

// Tells the unfinished word at the end apart from others; kNone between words.
uint32_t PrefixBeamSearch::last_spelling(const Final& final) const {
  if (model_.pronunciations) return final.word;
  const Slot& slot = beam_[final.slot];
  return slot.trie == Lexicon::kRoot ? kNone : spelling_of(slot.node, slot.trie);
}

// A word's confidence: the share of all weight, of the final texts and of those that merged into this one, that has it.
void PrefixBeamSearch::set_confidences(const std::vector<Final>& all, const Final& best, Result* result) const {
  const uint32_t end = beam_[best.slot].node;
  const uint32_t behind = beam_[best.slot].trie == Lexicon::kRoot ? end : kNone;  // the space after the last word
  const uint32_t last = last_spelling(best);
  std::vector<double> against(nodes_[end].depth + 1, 0.0);  // by the depth of the node that closes the word
  double total = 0.0, against_last = 0.0;
  for (const Final& other : all) {
    total += other.mass;
    if (&other == &best) continue;
    different_words(end, beam_[other.slot].node, last_spelling(other), &different_);
    for (const uint32_t node : different_) against[nodes_[node].depth] += other.mass;
    if (std::find(other_words_.begin(), other_words_.end(), last) == other_words_.end()) against_last += other.mass;
  }
  // Of "two" and of "two ", in which homophones are merged.
  const double last_trust = best.mass > 0.0 ? best.sure / best.mass : 1.0;
  size_t word = 0;
  for (const uint32_t node : path_to(end, false)) {
    if (nodes_[node].closed_word == kNone || word == result->words.size()) continue;
    const double trust = node == behind ? last_trust : nodes_[node].trust;
    const double share = trust * (1.0 - against[nodes_[node].depth] / total);
    result->words[word++].confidence = confidence_of(share, model_.options);
  }
  if (word < result->words.size())
    result->words[word].confidence = confidence_of(last_trust * (1.0 - against_last / total), model_.options);
}

}  // namespace asr
