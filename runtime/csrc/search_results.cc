// What the beam is worth as texts: scores, word times and confidences.
#include <algorithm>
#include <cmath>
#include <limits>

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

// What is left where every weight underflowed to 0: no words, at probability 0.
Result impossible() {
  Result result;
  result.score = result.acoustic_score = -std::numeric_limits<double>::infinity();
  return result;
}

}  // namespace

// The weight that ending the text here multiplies by; 0 when the unfinished word cannot be a word.
double PrefixBeamSearch::final_factor(const Slot& slot, bool drop_unfinished) const {
  const uint32_t kept = nodes_[slot.node].state;
  double factor = std::exp(hot_end(slot));
  LanguageModel::State state;
  if (model_.lm) state = states_[kept];
  if (slot.trie != Lexicon::kRoot && drop_unfinished) {
    factor *= std::exp(-look_ahead(slot.trie));
  } else if (slot.trie != Lexicon::kRoot) {
    const uint32_t word = word_at(slot.trie, slot.hot);
    if (word == kNone) return 0.0;
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
double PrefixBeamSearch::hot_end(const Slot& slot) const {
  if (!hot_words_) return 0.0;
  return (slot.trie == Lexicon::kRoot ? 0.0 : hot_words_->boost(slot.hot)) - hot_words_->held(slot.hot);
}

// The word that a spelling is: the language model's index; kUnknown or kUnknownHot where that is allowed; else kNone.
uint32_t PrefixBeamSearch::word_at(uint32_t trie, uint32_t hot) const {
  const bool in_lexicon = model_.lexicon && trie != kOpen && (*model_.lexicon)[trie].word != Lexicon::kNone;
  if (in_lexicon) return (*model_.lexicon)[trie].word;
  if (hot_words_ && hot_words_->is_word(hot)) return kUnknownHot;
  return model_.open ? kUnknown : kNone;
}

// Living prefixes as whole texts, best first: "a b" and "a b " are the same text and add up.
std::vector<PrefixBeamSearch::Final> PrefixBeamSearch::finals(Ending ending) const {
  std::vector<Final> all;
  for (uint32_t i = 0; i < beam_.size(); ++i) {
    const double factor =
        ending == Ending::kUnfinished ? 1.0 : final_factor(beam_[i], ending == Ending::kDropUnfinished);
    const double weight = (beam_[i].blank + beam_[i].label) * factor;
    if (!(weight > 0.0 && std::isfinite(weight))) continue;  // extreme settings leave the range of a double
    const Node& node = nodes_[beam_[i].node];
    const bool spaced = node.trie == Lexicon::kRoot && node.parent != kNone;
    all.push_back({weight, weight, i, spaced ? node.parent : beam_[i].node});
  }
  std::sort(all.begin(), all.end(), [](const Final& a, const Final& b) {
    return a.text_node != b.text_node ? a.text_node < b.text_node : a.part > b.part;
  });
  size_t kept = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (kept > 0 && all[kept - 1].text_node == all[i].text_node) {
      all[kept - 1].weight += all[i].weight;
    } else {
      all[kept++] = all[i];
    }
  }
  all.resize(kept);
  std::sort(all.begin(), all.end(), [this](const Final& a, const Final& b) {
    if (a.weight != b.weight) return a.weight > b.weight;
    return path_to(beam_[a.slot].node, true) < path_to(beam_[b.slot].node, true);
  });
  return all;
}

// Root to prefix: nodes, or their tokens.
std::vector<uint32_t> PrefixBeamSearch::path_to(uint32_t node, bool tokens) const {
  std::vector<uint32_t> path;
  for (; node != kRoot; node = nodes_[node].parent) path.push_back(tokens ? nodes_[node].token : node);
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
    if (token.code_count == 0) continue;
    if (result.words.empty() || result.words.back().end != 0) result.words.push_back({"", node.entered, 0, 0.0});
    result.words.back().text += token.text;
  }
  end_word(beam_[final.slot].exit);
  put_in_order(&result.words);
  const uint32_t trie = beam_[final.slot].trie;
  if (ending == Ending::kDropUnfinished && trie != Lexicon::kRoot && !result.words.empty()) result.words.pop_back();
  for (const WordResult& word : result.words) result.text += (result.text.empty() ? "" : " ") + word.text;
  result.score = std::log(final.weight) + log_scale_;
  if (ending == Ending::kUnfinished) result.score -= look_ahead(trie);
  set_scores(path, beam_[final.slot], ending, &result);
  return result;
}

// Replays the language model over the words (or tokens) of a text and takes its part out of the score.
void PrefixBeamSearch::set_scores(const std::vector<uint32_t>& path, const Slot& slot, Ending ending,
                                  Result* result) const {
  const Options& options = model_.options;
  LanguageModel::State state, next;
  if (model_.lm) state = model_.lm->begin();
  double lm_score = 0.0;
  double bonus = slot.hot_credit + (ending == Ending::kUnfinished ? 0.0 : hot_end(slot));
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
  if (ending == Ending::kComplete && slot.trie != Lexicon::kRoot) add_word(word_at(slot.trie, slot.hot));
  if (ending != Ending::kUnfinished && model_.lm && options.end_of_sentence) add_unit(model_.lm->end_of_sentence());
  result->lm_score = lm_score;
  result->acoustic_score = result->score - options.alpha * lm_score - bonus;
}

// A word's confidence: the share of all weight, of the final texts and of those that merged into this one, that has it.
void PrefixBeamSearch::set_confidences(const std::vector<Final>& all, const Final& best, Result* result) const {
  const uint32_t end = beam_[best.slot].node;
  const auto last_word = [&](const Slot& slot) {
    return slot.trie == Lexicon::kRoot ? kNone : spelling_of(slot.node, slot.trie);
  };
  const uint32_t last = last_word(beam_[best.slot]);
  std::vector<double> against(nodes_[end].depth + 1, 0.0);  // by the depth of the node that closes the word
  double total = 0.0, against_last = 0.0;
  for (const Final& other : all) {
    const Slot& slot = beam_[other.slot];
    const double weight = other.weight * slot.merged * std::exp(-slot.hot_credit - hot_end(slot));
    total += weight;
    if (other.slot == best.slot) continue;
    different_words(end, slot.node, last_word(slot), &different_);
    for (const uint32_t node : different_) against[nodes_[node].depth] += weight;
    if (std::find(other_words_.begin(), other_words_.end(), last) == other_words_.end()) against_last += weight;
  }
  size_t word = 0;
  for (const uint32_t node : path_to(end, false)) {
    if (nodes_[node].closed_word == kNone || word == result->words.size()) continue;
    result->words[word++].confidence = nodes_[node].trust * (1.0 - against[nodes_[node].depth] / total);
  }
  if (word < result->words.size()) result->words[word].confidence = std::max(0.0, 1.0 - against_last / total);
}

}  // namespace asr
