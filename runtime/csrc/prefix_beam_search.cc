#include "prefix_beam_search.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "futures.h"

namespace asr {
namespace {

constexpr size_t kCacheSize = 4096;
// The blank of a frame counts at least this much (against the likeliest token), so that some prefix always survives.
constexpr float kLeastBlank = 1e-30f;

// e^x for x <= 0 to 2e-7 of its value; 0 below e^-87.7. Plain arithmetic without a branch, so that compilers turn it
// into vectors.
inline float fast_exp(float x) {
  const float scaled = (x < -88.0f ? -88.0f : x) * 1.44269504f;
  const auto whole = static_cast<int32_t>(scaled - 0.5f);  // rounds to nearest: scaled <= 0
  const float f = (scaled - static_cast<float>(whole)) * 0.693147181f;
  const float power =
      1.0f +
      f * (1.0f + f * (0.5f + f * (1.66666667e-1f + f * (4.16666667e-2f + f * (8.3333333e-3f + f * 1.3888889e-3f)))));
  const int32_t bits = (whole + 127) << 23;  // all 0 at the lowest exponent
  float factor;
  std::memcpy(&factor, &bits, sizeof(factor));
  return power * factor;
}

uint32_t lowest_bit(uint32_t bits) { return static_cast<uint32_t>(__builtin_ctz(bits)); }

}  // namespace

PrefixBeamSearch::PrefixBeamSearch(const SearchModel& model)
    : model_(model),
      threshold_(std::exp(-model.options.beam_threshold)),
      merges_futures_(model.options.n_best == 1 && threshold_ > 0.0),
      spells_twice_(!model.pronunciations && model.alphabet.spells_twice()),
      cache_(model.lm ? kCacheSize : 0) {
  const Alphabet& alphabet = model.alphabet;
  for (size_t k = 0; k < alphabet.size(); ++k) {
    const Token& token = alphabet.token(k);
    const bool letter = model.lexicon && !model.scores_tokens && !token.starts_word && token.code_count == 1;
    const bool goes_on = model.lexicon && !token.starts_word && token.code_count > 0;
    const uint32_t first = goes_on ? uint32_t{1} << alphabet.codes(token)[0] : 0;
    letters_.push_back(letter ? first : 0);
    firsts_.push_back(first);
  }
  p_.resize(alphabet.size() + 1);
  above_floor_.resize(alphabet.size() + 1);
  reset();
}

void PrefixBeamSearch::reset(std::shared_ptr<const HotWords> hot_words) {
  hot_words_ = std::move(hot_words);
  const uint32_t space = model_.alphabet.space();
  const uint32_t token = space == Alphabet::kNone ? static_cast<uint32_t>(model_.alphabet.size()) : space;
  nodes_.assign(1, Node{kNone, kNone, kNone, 0, token, Lexicon::kRoot, 0, kNone, 0, 0, 1.0f, 0, kNone});
  states_.resize(1);
  if (model_.lm) states_[0] = model_.lm->begin();
  free_.clear();
  free_states_.clear();
  Slot root{};
  root.blank = 1.0;
  root.state = model_.lm ? state_hash(states_[0]) : 0;
  root.token = token;
  root.hot = hot_words_ ? HotWords::kStart : HotWords::kNone;
  root.merged = 1.0f;
  root.future = future_of(token, Lexicon::kRoot, root.state, root.hot);
  if (model_.lexicon) {
    root.children = (*model_.lexicon)[Lexicon::kRoot].children;
    root.first = (*model_.lexicon)[Lexicon::kRoot].first;
  }
  beam_.assign(1, root);
  frame_ = 0;
  log_scale_ = 0.0;
}

void PrefixBeamSearch::feed(const float* log_probs, size_t frames) {
  const size_t tokens = model_.alphabet.size();
  for (size_t i = 0; i < frames; ++i, ++frame_) {
    load_frame(log_probs + i * tokens);
    propagate();
    candidates_.clear();
    if (!expansions_.empty()) expand();
    select();
  }
}

void PrefixBeamSearch::load_frame(const float* x) {
  const size_t tokens = model_.alphabet.size();
  const uint32_t blank = model_.alphabet.blank();
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (size_t k = 1; k < tokens; ++k) top = x[k] > top ? x[k] : top;
  float* const p = p_.data();
#pragma omp simd
  for (size_t k = 0; k < tokens; ++k) p[k] = fast_exp(x[k] - top);
  p[blank] = std::max(p[blank], kLeastBlank);
  log_scale_ += top;
  find_expansions(x);
}

// The tokens above the floor, likeliest first: all, those that are no letter, and the letters by the lexicon's code.
void PrefixBeamSearch::find_expansions(const float* x) {
  const auto tokens = static_cast<uint32_t>(model_.alphabet.size());
  const auto floor = static_cast<float>(model_.options.token_floor);
  uint32_t* const above = above_floor_.data();
  size_t count = 0;
  for (uint32_t k = 0; k < tokens; ++k) {  // no branch: which they are changes from frame to frame
    above[count] = k;
    count += static_cast<size_t>(x[k] >= floor);
  }
  expansions_.clear();
  other_expansions_.clear();
  letters_above_floor_ = 0;
  likeliest_ = 0.0;
  for (size_t i = 0; i < count; ++i) {
    const Expansion expansion{p_[above[i]], above[i], letters_[above[i]]};
    if (expansion.token == model_.alphabet.blank() || expansion.p <= 0.0) continue;
    expansions_.push_back(expansion);
    likeliest_ = std::max(likeliest_, expansion.p);
    if (expansion.letter == 0) {
      other_expansions_.push_back(expansion);
    } else {
      letters_above_floor_ |= expansion.letter;
      letter_expansions_[lowest_bit(expansion.letter)] = expansion;
    }
  }
  const auto likelier = [](const Expansion& a, const Expansion& b) {
    return a.p != b.p ? a.p > b.p : a.token < b.token;
  };
  if (hot_words_ || model_.open) std::sort(expansions_.begin(), expansions_.end(), likelier);
  std::sort(other_expansions_.begin(), other_expansions_.end(), likelier);
}

// What every living prefix keeps: the blank, a repeat of its token, and what its living parent passes on to it.
void PrefixBeamSearch::propagate() {
  const size_t size = beam_.size();
  next_blank_.resize(size);
  next_label_.resize(size);
  child_tokens_.assign(size, 0);
  Slot* const beam = beam_.data();
  Node* const nodes = nodes_.data();
  const float* const probabilities = p_.data();
  const double blank = probabilities[model_.alphabet.blank()];
  // Between words a second space changes nothing, so it may come after a blank, too.
  const uint32_t between_words = model_.options.repeated_spaces ? Lexicon::kRoot : kNone;
  double best = 0.0, least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < size; ++i) {
    Slot& slot = beam[i];
    const double p = probabilities[slot.token];
    const double total = slot.blank + slot.label;
    const double pause = total * blank;
    const double stay = (slot.trie == between_words ? total : slot.label) * p;
    double label = stay;
    if (stay > pause && slot.exit == frame_) slot.exit = frame_ + 1;
    Node& node = nodes[slot.node];
    const uint32_t parent = node.parent == kNone ? kNone : nodes[node.parent].slot;
    if (parent != kNone) {
      const Slot& from = beam[parent];
      child_tokens_[parent] |= uint64_t{1} << (slot.token & 63);
      const double arrival = (from.blank + (slot.token == from.token ? 0.0 : from.label)) * p * slot.edge;
      if (arrival > pause + stay) {
        node.entered = frame_;
        node.parent_exit = from.exit;
        slot.exit = frame_ + 1;
      }
      label += arrival;
    }
    next_blank_[i] = pause;
    next_label_[i] = label;
    best = std::max(best, pause + label);
    least = std::min(least, pause + label);
  }
  best_ = best;
  least_ = least;
}

bool PrefixBeamSearch::has_living_child(uint32_t slot, uint32_t token) const {
  if (!(child_tokens_[slot] >> (token & 63) & 1)) return false;
  const uint32_t child = child_of(beam_[slot].node, token);
  return child != kNone && nodes_[child].slot != kNone;
}

bool PrefixBeamSearch::has_living_child(uint32_t slot, uint32_t token, uint32_t closed_word) const {
  if (!(child_tokens_[slot] >> (token & 63) & 1)) return false;
  const uint32_t child = child_of(beam_[slot].node, token, closed_word);
  return child != kNone && nodes_[child].slot != kNone;
}

// New prefixes. A prefix has one parent, so that a candidate's weight is complete when it is found; in a full beam it
// must outweigh the lightest.
void PrefixBeamSearch::expand() {
  new_states_.clear();
  double cut = best_ * threshold_;
  if (beam_.size() >= model_.options.beam_size) cut = std::max(cut, least_);
  for (uint32_t i = 0; i < beam_.size(); ++i) {
    if ((beam_[i].blank + beam_[i].label) * likeliest_ >= cut) expand_slot(i, &cut);
  }
}

void PrefixBeamSearch::expand_slot(uint32_t i, double* cut) {
  const Slot& slot = beam_[i];
  const double total = slot.blank + slot.label;
  const bool hot = slot.hot != HotWords::kNone;
  const bool anything = hot || model_.open;  // may be spelled, whether the lexicon goes on with it or not
  const uint32_t letters = hot ? 0 : slot.children & letters_above_floor_;
  for (uint32_t left = letters; left != 0; left &= left - 1) expand_letter(i, lowest_bit(left), total, cut);
  for (const Expansion& expansion : anything ? expansions_ : other_expansions_) {
    if (total * expansion.p < *cut) break;
    if (expansion.letter & letters) continue;
    const uint32_t first = anything ? 0 : firsts_[expansion.token];
    if (first != 0 && !(first & slot.children)) continue;
    const double mass = (expansion.token == slot.token ? slot.blank : total) * expansion.p;
    expand_other(i, expansion.token, mass, cut);
  }
}

// The common case: one letter further in the lexicon.
void PrefixBeamSearch::expand_letter(uint32_t i, uint32_t code, double total, double* cut) {
  const Slot& slot = beam_[i];
  const Expansion& expansion = letter_expansions_[code];
  const double mass = (expansion.token == slot.token ? slot.blank : total) * expansion.p;
  if (mass < *cut) return;
  const uint32_t trie = slot.first + count_bits(slot.children & (expansion.letter - 1));
  const double step = (*model_.lexicon)[trie].step;
  if (mass * step < *cut || mass * step <= 0.0 || has_living_child(i, expansion.token)) return;
  Candidate& candidate = candidates_.emplace_back();
  candidate.weight = mass * step;
  candidate.edge = step;
  candidate.state = slot.state;
  candidate.token = expansion.token;
  candidate.trie = trie;
  candidate.hot = slot.hot;
  candidate.hot_credit = slot.hot_credit;
  enter(slot, &candidate, cut);
}

void PrefixBeamSearch::expand_other(uint32_t i, uint32_t token, double mass, double* cut) {
  const Slot& slot = beam_[i];
  if (mass < *cut || mass <= 0.0) return;
  const bool between = slot.trie == Lexicon::kRoot;
  if (between && token == model_.alphabet.space()) return;
  if (model_.pronunciations && !between && model_.alphabet.token(token).starts_word) {
    expand_homophones(i, token, mass, cut);
    return;
  }
  if (has_living_child(i, token)) return;
  Step step{slot.trie, kNone, kNone, slot.hot, kNone, 1.0, 0.0};
  if (follow(i, token, &step)) expand_step(i, token, step, mass, cut);
}

PrefixBeamSearch::Candidate* PrefixBeamSearch::expand_step(uint32_t i, uint32_t token, const Step& step, double mass,
                                                           double* cut) {
  const Slot& slot = beam_[i];
  const double weight = mass * step.edge;
  if (weight < *cut || weight <= 0.0) return nullptr;
  Candidate& candidate = candidates_.emplace_back();
  candidate.weight = weight;
  candidate.edge = step.edge;
  candidate.state = step.new_state == kNone ? slot.state : state_hash(new_states_[step.new_state]);
  candidate.token = token;
  candidate.trie = step.trie;
  candidate.closed_word = step.closed_word;
  candidate.hot = step.hot;
  candidate.spelling = step.spelling;
  candidate.hot_credit = slot.hot_credit + step.hot_gain;
  candidate.new_state = step.new_state;
  enter(slot, &candidate, cut);
  return &candidate;
}

void PrefixBeamSearch::enter(const Slot& parent, Candidate* candidate, double* cut) {
  candidate->parent = parent.node;
  candidate->parent_exit = parent.exit;
  candidate->merged = parent.merged;
  candidate->future = future_of(candidate->token, candidate->trie, candidate->state, candidate->hot);
  if (candidate->weight <= best_) return;
  best_ = candidate->weight;
  *cut = std::max(*cut, best_ * threshold_);
}

bool PrefixBeamSearch::follow(uint32_t slot, uint32_t token, Step* step) {
  const Token& t = model_.alphabet.token(token);
  const uint32_t node = beam_[slot].node;
  const double held = hot_words_ ? hot_words_->held(step->hot) : 0.0;
  if (t.starts_word && step->trie != Lexicon::kRoot && !close_word(node, step)) return false;
  if (t.code_count > 0 && !spell(t, step)) return false;
  if (hot_words_) {
    step->hot_gain += hot_words_->held(step->hot) - held;
    step->edge *= std::exp(step->hot_gain);
  }
  if (t.code_count == 0) return true;
  if (model_.scores_tokens) add_token_unit(token, node, step);
  return true;
}

bool PrefixBeamSearch::spell(const Token& token, Step* step) const {
  const uint8_t* codes = model_.alphabet.codes(token);
  for (uint32_t i = 0; hot_words_ && i < token.code_count; ++i) step->hot = hot_words_->spell(step->hot, codes[i]);
  if (!model_.lexicon) {
    step->trie = kOpen;
    return true;
  }
  for (uint32_t i = 0; i < token.code_count && step->trie != kOpen; ++i) {
    const uint32_t child = model_.lexicon->child(step->trie, codes[i]);
    if (child != Lexicon::kNone) {
      step->edge *= (*model_.lexicon)[child].step;
      step->trie = child;
    } else {
      step->edge *= std::exp(static_cast<double>(model_.open_look_ahead) - model_.lexicon->look_ahead(step->trie));
      step->trie = kOpen;
    }
  }
  return step->trie != kOpen || model_.open || step->hot != HotWords::kNone;
}

// What closing a word is worth, without what its look-ahead has already paid.
double PrefixBeamSearch::word_weight(uint32_t trie, uint32_t word, double log_probability) const {
  const Options& options = model_.options;
  double weight = options.alpha * log_probability + options.beta;
  if (word == kUnknown && model_.lexicon) weight += options.unknown_word_penalty;
  return std::exp(weight - look_ahead(trie));
}

bool PrefixBeamSearch::close_word(uint32_t node, Step* step) {
  if (!model_.pronunciations) step->closed_word = word_at(step->trie, step->hot);
  if (step->closed_word == kNone) return false;
  double log_probability = 0.0;
  if (model_.lm && !model_.scores_tokens) {
    const CacheEntry& entry = score(nodes_[node].state, lm_index(step->closed_word));
    log_probability = entry.log_probability;
    step->new_state = static_cast<uint32_t>(new_states_.size());
    new_states_.push_back(entry.state);
  }
  step->edge *= word_weight(step->trie, step->closed_word, log_probability);
  step->spelling = model_.pronunciations ? step->closed_word : spelling_of(node, step->trie);
  step->trie = Lexicon::kRoot;
  if (hot_words_) {
    step->hot_gain += hot_words_->boost(step->hot, step->closed_word);
    step->hot = hot_words_->next_word(step->hot, step->closed_word);
  }
  return true;
}

// The space is scored together with the letter behind it, so that a space at the end of the text costs nothing.
void PrefixBeamSearch::add_token_unit(uint32_t token, uint32_t node, Step* step) {
  const Node& parent = nodes_[node];
  LanguageModel::State state = states_[parent.state];
  double log_probability = 0.0;
  const auto add = [&](uint32_t unit) {
    LanguageModel::State next;
    log_probability += model_.lm->score(state, unit, &next);
    state = next;
  };
  const uint32_t space = model_.alphabet.space();
  if (parent.token == space && node != kRoot) add(model_.token_units[space]);
  add(model_.token_units[token]);
  step->edge *= std::exp(model_.options.alpha * log_probability);
  step->new_state = static_cast<uint32_t>(new_states_.size());
  new_states_.push_back(state);
}

const PrefixBeamSearch::CacheEntry& PrefixBeamSearch::score(uint32_t from, uint32_t word) const {
  const LanguageModel::State& state = states_[from];
  const uint64_t key = mix(state_hash(state), word) | 1;  // 0 is the empty entry
  CacheEntry& entry = cache_[key >> 1 & (kCacheSize - 1)];
  if (entry.key != key) {
    entry.log_probability = model_.lm->score(state, word, &entry.state);
    entry.key = key;
  }
  return entry;
}

}  // namespace asr
