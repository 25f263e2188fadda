#include "prefix_beam_search.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace asr {
namespace {

constexpr size_t kCacheSize = 4096;
// The blank of a frame counts at least this much (against the likeliest token), so that some prefix always survives.
constexpr float kLeastBlank = 1e-30f;
constexpr double kSmallest = 1e-60, kLargest = 1e60;  // the best weight is brought back to 1 beyond these

// e^x for x <= 0 to 2e-7 of its value; 0 below e^-87. Plain arithmetic, so that compilers turn it into vectors.
inline float fast_exp(float x) {
  const float scaled = std::max(x, -87.0f) * 1.44269504f;
  const auto whole = static_cast<int32_t>(scaled - 0.5f);  // rounds to nearest: scaled <= 0
  const float f = (scaled - static_cast<float>(whole)) * 0.693147181f;
  const float power =
      1.0f +
      f * (1.0f + f * (0.5f + f * (1.66666667e-1f + f * (4.16666667e-2f + f * (8.3333333e-3f + f * 1.3888889e-3f)))));
  const int32_t bits = (whole + 127) << 23;
  float factor;
  std::memcpy(&factor, &bits, sizeof(factor));
  return x < -87.0f ? 0.0f : power * factor;
}

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

// A prefix may find a heavier, later alignment after its continuations have moved on; words still follow each other.
void put_in_order(std::vector<WordResult>* words) {
  for (size_t i = words->size(); i-- > 0;) {
    WordResult& word = (*words)[i];
    if (i + 1 < words->size()) word.end = std::min(word.end, (*words)[i + 1].start);
    word.start = std::min(word.start, word.end > 0 ? word.end - 1 : 0);
  }
}

uint64_t state_hash(const LanguageModel::State& state) {
  uint64_t hash = mix(0x8445D61A4E774912u, state.length);
  for (unsigned i = 0; i < state.length; ++i) hash = mix(hash, state.words[i]);
  return hash;
}

// An unknown spelling goes on alike whatever it was; everything else lies in token, lexicon and language model.
uint64_t future_of(uint32_t token, uint32_t trie, uint64_t state) { return mix(state, (uint64_t{token} << 32) | trie); }

}  // namespace

PrefixBeamSearch::PrefixBeamSearch(const SearchModel& model)
    : model_(model),
      threshold_(std::exp(-model.options.beam_threshold)),
      merges_futures_(model.options.n_best == 1 && threshold_ > 0.0),
      cache_(model.lm ? kCacheSize : 0) {
  const Alphabet& alphabet = model.alphabet;
  for (size_t k = 0; k < alphabet.size(); ++k) {
    const Token& token = alphabet.token(k);
    const bool letter = model.lexicon && !model.scores_tokens && !token.starts_word && token.code_count == 1;
    letters_.push_back(letter ? uint32_t{1} << alphabet.codes(token)[0] : 0);
  }
  p_.resize(alphabet.size() + 1);
  reset();
}

void PrefixBeamSearch::reset() {
  const uint32_t space = model_.alphabet.space();
  const uint32_t token = space == Alphabet::kNone ? static_cast<uint32_t>(model_.alphabet.size()) : space;
  nodes_.assign(1, Node{kNone, kNone, kNone, 0, token, Lexicon::kRoot, kRoot, kNone, 0, 0});
  states_.resize(1);
  if (model_.lm) states_[kRoot] = model_.lm->begin();
  free_.clear();
  const uint64_t state = model_.lm ? state_hash(states_[kRoot]) : 0;
  Slot root{1.0, 0.0, 0.0, state, future_of(token, Lexicon::kRoot, state), 0, 0, kRoot, token, Lexicon::kRoot, 0};
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
  for (size_t k = 0; k < tokens; ++k) p_[k] = fast_exp(x[k] - top);
  expansions_.clear();
  const auto floor = static_cast<float>(model_.options.token_floor);
  for (uint32_t k = 0; k < tokens; ++k) {
    if (x[k] >= floor && k != blank && p_[k] > 0.0f) expansions_.push_back({p_[k], k, letters_[k]});
  }
  p_[blank] = std::max(p_[blank], kLeastBlank);
  log_scale_ += top;
  std::sort(expansions_.begin(), expansions_.end(),
            [](const Expansion& a, const Expansion& b) { return a.p != b.p ? a.p > b.p : a.token < b.token; });
}

// What every living prefix keeps: the blank, a repeat of its token, and what its living parent passes on to it.
void PrefixBeamSearch::propagate() {
  const size_t size = beam_.size();
  next_blank_.resize(size);
  next_label_.resize(size);
  child_tokens_.assign(size, 0);
  const double blank = p_[model_.alphabet.blank()];
  best_ = 0.0;
  least_ = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < size; ++i) {
    Slot& slot = beam_[i];
    const double p = p_[slot.token];
    const double total = slot.blank + slot.label;
    const double pause = total * blank;
    // Between words a second space changes nothing, so it may come after a blank, too.
    const bool between_words = model_.options.repeated_spaces && slot.trie == Lexicon::kRoot;
    const double stay = (between_words ? total : slot.label) * p;
    double label = stay;
    if (stay > pause && slot.exit == frame_) slot.exit = frame_ + 1;
    Node& node = nodes_[slot.node];
    const uint32_t parent = node.parent == kNone ? kNone : nodes_[node.parent].slot;
    if (parent != kNone) {
      const Slot& from = beam_[parent];
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
    best_ = std::max(best_, pause + label);
    least_ = std::min(least_, pause + label);
  }
}

bool PrefixBeamSearch::has_living_child(uint32_t slot, uint32_t token) const {
  if (!(child_tokens_[slot] >> (token & 63) & 1)) return false;
  const uint32_t child = child_of(beam_[slot].node, token);
  return child != kNone && nodes_[child].slot != kNone;
}

// New prefixes. A prefix has one parent, so that a candidate's weight is complete when it is found; in a full beam it
// must outweigh the lightest.
void PrefixBeamSearch::expand() {
  new_states_.clear();
  double cut = best_ * threshold_;
  if (beam_.size() >= model_.options.beam_size) cut = std::max(cut, least_);
  for (uint32_t i = 0; i < beam_.size(); ++i) expand_slot(i, &cut);
}

void PrefixBeamSearch::expand_slot(uint32_t i, double* cut) {
  const Slot& slot = beam_[i];
  const double total = slot.blank + slot.label;
  for (const Expansion& expansion : expansions_) {
    double mass = total * expansion.p;
    if (mass < *cut) break;
    if (expansion.token == slot.token) mass = slot.blank * expansion.p;
    if (expansion.letter & slot.children) {
      expand_letter(i, expansion, mass, cut);
    } else if (expansion.letter == 0 || model_.open) {
      expand_other(i, expansion.token, mass, cut);
    }
  }
}

// The common case: one letter further in the lexicon.
void PrefixBeamSearch::expand_letter(uint32_t i, const Expansion& expansion, double mass, double* cut) {
  const Slot& slot = beam_[i];
  const uint32_t below = slot.children & (expansion.letter - 1);
  const uint32_t trie = slot.first + static_cast<uint32_t>(__builtin_popcount(below));
  const double step = (*model_.lexicon)[trie].step;
  if (mass * step < *cut || mass * step <= 0.0 || has_living_child(i, expansion.token)) return;
  add_candidate({mass * step, step, slot.state, 0, i, expansion.token, trie, kNone, kNone}, cut);
}

void PrefixBeamSearch::expand_other(uint32_t i, uint32_t token, double mass, double* cut) {
  const Slot& slot = beam_[i];
  if (mass < *cut || mass <= 0.0) return;
  if (slot.trie == Lexicon::kRoot && token == model_.alphabet.space()) return;
  if (has_living_child(i, token)) return;
  Step step{slot.trie, kNone, kNone, 1.0};
  if (!follow(i, token, &step)) return;
  const double weight = mass * step.edge;
  if (weight < *cut || weight <= 0.0) return;
  const uint64_t state = step.new_state == kNone ? slot.state : state_hash(new_states_[step.new_state]);
  add_candidate({weight, step.edge, state, 0, i, token, step.trie, step.closed_word, step.new_state}, cut);
}

void PrefixBeamSearch::add_candidate(Candidate candidate, double* cut) {
  candidate.future = future_of(candidate.token, candidate.trie, candidate.state);
  candidates_.push_back(candidate);
  if (candidate.weight <= best_) return;
  best_ = candidate.weight;
  *cut = std::max(*cut, best_ * threshold_);
}

bool PrefixBeamSearch::follow(uint32_t slot, uint32_t token, Step* step) {
  const Token& t = model_.alphabet.token(token);
  const uint32_t node = beam_[slot].node;
  if (t.starts_word && step->trie != Lexicon::kRoot && !close_word(step->trie, node, step)) return false;
  if (t.code_count == 0) return true;
  if (!spell(t, step)) return false;
  if (model_.scores_tokens) add_token_unit(token, node, step);
  return true;
}

bool PrefixBeamSearch::spell(const Token& token, Step* step) const {
  if (!model_.lexicon) {
    step->trie = kOpen;
    return true;
  }
  const uint8_t* codes = model_.alphabet.codes(token);
  for (uint32_t i = 0; i < token.code_count && step->trie != kOpen; ++i) {
    const uint32_t child = model_.lexicon->child(step->trie, codes[i]);
    if (child != Lexicon::kNone) {
      step->edge *= (*model_.lexicon)[child].step;
      step->trie = child;
    } else if (model_.open) {
      step->edge *= std::exp(static_cast<double>(model_.open_look_ahead) - model_.lexicon->look_ahead(step->trie));
      step->trie = kOpen;
    } else {
      return false;
    }
  }
  return true;
}

// What closing a word is worth, without what its look-ahead has already paid.
double PrefixBeamSearch::word_weight(uint32_t trie, double log_probability) const {
  const Options& options = model_.options;
  double weight = options.alpha * log_probability + options.beta;
  if (!model_.lexicon) return std::exp(weight);
  const bool known = trie != kOpen && (*model_.lexicon)[trie].word != Lexicon::kNone;
  if (!known) weight += options.unknown_word_penalty;
  return std::exp(weight - (trie == kOpen ? model_.open_look_ahead : model_.lexicon->look_ahead(trie)));
}

bool PrefixBeamSearch::close_word(uint32_t trie, uint32_t node, Step* step) {
  const uint32_t word = model_.lexicon && trie != kOpen ? (*model_.lexicon)[trie].word : Lexicon::kNone;
  if (word == Lexicon::kNone && !model_.open) return false;
  double log_probability = 0.0;
  if (model_.lm && !model_.scores_tokens) {
    const CacheEntry& entry = score(nodes_[node].state_node, word == Lexicon::kNone ? 0 : word);
    log_probability = entry.log_probability;
    step->new_state = static_cast<uint32_t>(new_states_.size());
    new_states_.push_back(entry.state);
  }
  step->edge *= word_weight(trie, log_probability);
  step->closed_word = word == Lexicon::kNone ? kUnknown : word;
  step->trie = Lexicon::kRoot;
  return true;
}

// The space is scored together with the letter behind it, so that a space at the end of the text costs nothing.
void PrefixBeamSearch::add_token_unit(uint32_t token, uint32_t node, Step* step) {
  const Node& parent = nodes_[node];
  LanguageModel::State state = states_[parent.state_node];
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

const PrefixBeamSearch::CacheEntry& PrefixBeamSearch::score(uint32_t state_node, uint32_t word) const {
  const LanguageModel::State& state = states_[state_node];
  const uint64_t key = mix(state_hash(state), word) | 1;  // 0 is the empty entry
  CacheEntry& entry = cache_[key >> 1 & (kCacheSize - 1)];
  if (entry.key != key) {
    entry.log_probability = model_.lm->score(state, word, &entry.state);
    entry.key = key;
  }
  return entry;
}

// Of two prefixes with the same future the heavier stays ahead, so the lighter only costs a place in the beam. This is
// pruning (what still arrives at the lighter from its parent is lost), so it is left out where nothing shall be pruned,
// and with n_best above 1, where the lighter is another text.
void PrefixBeamSearch::merge_equal_futures() {
  const auto old_size = static_cast<uint32_t>(beam_.size());
  const size_t count = old_size + candidates_.size();
  while (merges_.size() < 4 * count) merges_.resize(std::max<size_t>(1024, 2 * merges_.size()));
  const size_t mask = merges_.size() - 1;
  ++merge_stamp_;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t future = i < old_size ? beam_[i].future : candidates_[i - old_size].future;
    size_t place = future & mask;
    while (merges_[place].stamp == merge_stamp_ && merges_[place].future != future) place = (place + 1) & mask;
    MergeEntry& entry = merges_[place];
    if (entry.stamp != merge_stamp_) {
      entry = {future, merge_stamp_, i};
    } else if (!merge_into(entry.index, i) && merge_into(i, entry.index)) {
      entry.index = i;
    }
  }
}

// Drops the loser if the winner is at least as heavy in both parts.
bool PrefixBeamSearch::merge_into(uint32_t winner, uint32_t loser) {
  const auto old_size = static_cast<uint32_t>(beam_.size());
  const auto blank = [&](uint32_t i) { return i < old_size ? next_blank_[i] : 0.0; };
  const auto label = [&](uint32_t i) { return i < old_size ? next_label_[i] : candidates_[i - old_size].weight; };
  if (blank(winner) < blank(loser) || label(winner) < label(loser)) return false;
  if (loser < old_size) {
    next_blank_[loser] = next_label_[loser] = 0.0;
  } else {
    candidates_[loser - old_size].weight = 0.0;
  }
  return true;
}

void PrefixBeamSearch::select() {
  if (merges_futures_ && !candidates_.empty()) merge_equal_futures();
  double cut = best_ * threshold_;
  const size_t old_size = beam_.size();
  if (old_size + candidates_.size() > model_.options.beam_size) cut = cut_to_beam_size(cut);
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight >= cut && candidate.weight > 0.0) admit(candidate);
  }
  compact(cut, old_size);
  renormalise();
}

double PrefixBeamSearch::cut_to_beam_size(double cut) {
  weights_.clear();
  for (size_t i = 0; i < beam_.size(); ++i) {
    const double total = next_blank_[i] + next_label_[i];
    if (total >= cut) weights_.push_back(total);
  }
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight >= cut) weights_.push_back(candidate.weight);
  }
  const size_t beam = model_.options.beam_size;
  if (weights_.size() <= beam) return cut;
  const auto last = weights_.begin() + static_cast<std::ptrdiff_t>(beam) - 1;
  std::nth_element(weights_.begin(), last, weights_.end(), std::greater<double>());
  return *last;
}

// Appends a new prefix to the beam; its parent may be dropped afterwards, but keeps its node while it has children.
void PrefixBeamSearch::admit(const Candidate& candidate) {
  const uint32_t parent = beam_[candidate.slot].node;
  uint32_t node = child_of(parent, candidate.token);
  if (node == kNone) node = new_node(parent, candidate);
  nodes_[node].entered = frame_;
  nodes_[node].parent_exit = beam_[candidate.slot].exit;
  Slot slot{0.0, 0.0,  candidate.edge,  candidate.state, candidate.future, 0,
            0,   node, candidate.token, candidate.trie,  frame_ + 1};
  if (model_.lexicon && candidate.trie != kOpen) {
    slot.children = (*model_.lexicon)[candidate.trie].children;
    slot.first = (*model_.lexicon)[candidate.trie].first;
  }
  beam_.push_back(slot);
  next_blank_.push_back(0.0);
  next_label_.push_back(candidate.weight);
}

void PrefixBeamSearch::compact(double cut, size_t old_size) {
  size_t kept = 0;
  dropped_.clear();
  for (size_t i = 0; i < beam_.size(); ++i) {
    const double total = next_blank_[i] + next_label_[i];
    const uint32_t node = beam_[i].node;
    if (total <= 0.0 || (i < old_size && total < cut) || kept == model_.options.beam_size) {
      nodes_[node].slot = kNone;
      dropped_.push_back(node);
      continue;
    }
    if (i != kept) beam_[kept] = beam_[i];
    beam_[kept].blank = next_blank_[i];
    beam_[kept].label = next_label_[i];
    nodes_[node].slot = static_cast<uint32_t>(kept++);
  }
  beam_.resize(kept);
  for (const uint32_t node : dropped_) release(node);
}

void PrefixBeamSearch::renormalise() {
  if (best_ > kSmallest && best_ < kLargest) return;
  for (Slot& slot : beam_) {
    slot.blank /= best_;
    slot.label /= best_;
  }
  log_scale_ += std::log(best_);
}

uint32_t PrefixBeamSearch::child_of(uint32_t node, uint32_t token) const {
  uint32_t child = nodes_[node].first_child;
  while (child != kNone && nodes_[child].token != token) child = nodes_[child].next_sibling;
  return child;
}

uint32_t PrefixBeamSearch::new_node(uint32_t parent, const Candidate& candidate) {
  uint32_t node = static_cast<uint32_t>(nodes_.size());
  if (free_.empty()) {
    nodes_.emplace_back();
    if (model_.lm) states_.emplace_back();
  } else {
    node = free_.back();
    free_.pop_back();
  }
  Node& up = nodes_[parent];
  const bool has_state = candidate.new_state != kNone;
  nodes_[node] = {parent,
                  kNone,
                  up.first_child,
                  kNone,
                  candidate.token,
                  candidate.trie,
                  has_state ? node : up.state_node,
                  candidate.closed_word,
                  0,
                  0};
  if (has_state) states_[node] = new_states_[candidate.new_state];
  up.first_child = node;
  return node;
}

// Frees a dead prefix that nothing extends, and then its parent if that was all that kept it.
void PrefixBeamSearch::release(uint32_t node) {
  while (node != kRoot && nodes_[node].slot == kNone && nodes_[node].first_child == kNone) {
    const uint32_t parent = nodes_[node].parent;
    if (parent == kNone) return;  // freed before
    uint32_t* link = &nodes_[parent].first_child;
    while (*link != node) link = &nodes_[*link].next_sibling;
    *link = nodes_[node].next_sibling;
    nodes_[node].parent = kNone;
    free_.push_back(node);
    node = parent;
  }
}

// The weight that ending the text here multiplies by; 0 when the unfinished word cannot be a word.
double PrefixBeamSearch::final_factor(uint32_t slot, bool drop_unfinished) const {
  const uint32_t trie = beam_[slot].trie;
  double factor = 1.0;
  LanguageModel::State state;
  if (model_.lm) state = states_[nodes_[beam_[slot].node].state_node];
  if (trie != Lexicon::kRoot && drop_unfinished) {
    if (model_.lexicon) factor = std::exp(-(trie == kOpen ? model_.open_look_ahead : model_.lexicon->look_ahead(trie)));
  } else if (trie != Lexicon::kRoot) {
    const uint32_t word = word_at(trie);
    if (word == kNone) return 0.0;
    double log_probability = 0.0;
    if (model_.lm && !model_.scores_tokens) {
      const CacheEntry& entry = score(nodes_[beam_[slot].node].state_node, word == kUnknown ? 0 : word);
      log_probability = entry.log_probability;
      state = entry.state;
    }
    factor = word_weight(trie, log_probability);
  }
  if (!model_.lm || !model_.options.end_of_sentence) return factor;
  LanguageModel::State end;
  return factor * std::exp(model_.options.alpha * model_.lm->score(state, model_.lm->end_of_sentence(), &end));
}

// The word that a spelling is: the language model's index, kUnknown where that is allowed, otherwise kNone.
uint32_t PrefixBeamSearch::word_at(uint32_t trie) const {
  if (model_.lexicon && trie != kOpen && (*model_.lexicon)[trie].word != Lexicon::kNone)
    return (*model_.lexicon)[trie].word;
  return model_.open ? kUnknown : kNone;
}

// Living prefixes as whole texts, best first: "a b" and "a b " are the same text and add up.
std::vector<PrefixBeamSearch::Final> PrefixBeamSearch::finals(Ending ending) const {
  std::vector<Final> all;
  for (uint32_t i = 0; i < beam_.size(); ++i) {
    const double factor = ending == Ending::kUnfinished ? 1.0 : final_factor(i, ending == Ending::kDropUnfinished);
    const double weight = (beam_[i].blank + beam_[i].label) * factor;
    if (weight <= 0.0) continue;
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
  if (all.empty()) return results(Ending::kDropUnfinished, n_best);
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
    if (result.words.empty() || result.words.back().end != 0) result.words.push_back({"", node.entered, 0, 0.0, 0});
    result.words.back().text += token.text;
    result.words.back().last_node = index;
  }
  end_word(beam_[final.slot].exit);
  put_in_order(&result.words);
  const uint32_t trie = beam_[final.slot].trie;
  if (ending == Ending::kDropUnfinished && trie != Lexicon::kRoot && !result.words.empty()) result.words.pop_back();
  for (const WordResult& word : result.words) result.text += (result.text.empty() ? "" : " ") + word.text;
  result.score = std::log(final.weight) + log_scale_;
  if (ending == Ending::kUnfinished && model_.lexicon) {
    result.score -= trie == kOpen ? model_.open_look_ahead : model_.lexicon->look_ahead(trie);
  }
  set_scores(path, trie, ending, &result);
  return result;
}

// Replays the language model over the words (or tokens) of a text and takes its part out of the score.
void PrefixBeamSearch::set_scores(const std::vector<uint32_t>& path, uint32_t trie, Ending ending,
                                  Result* result) const {
  const Options& options = model_.options;
  LanguageModel::State state, next;
  if (model_.lm) state = model_.lm->begin();
  double lm_score = 0.0, bonus = 0.0;
  const auto add_unit = [&](uint32_t unit) {
    lm_score += model_.lm->score(state, unit, &next);
    state = next;
  };
  const auto add_word = [&](uint32_t word) {
    bonus += options.beta;
    if (word == kUnknown && model_.lexicon) bonus += options.unknown_word_penalty;
    if (model_.lm && !model_.scores_tokens) add_unit(word == kUnknown ? 0 : word);
  };
  for (const uint32_t index : path) {
    const Node& node = nodes_[index];
    if (node.closed_word != kNone) add_word(node.closed_word);
    if (!model_.scores_tokens || model_.alphabet.token(node.token).code_count == 0) continue;
    const Node& parent = nodes_[node.parent];
    if (parent.token == model_.alphabet.space() && node.parent != kRoot) add_unit(model_.token_units[parent.token]);
    add_unit(model_.token_units[node.token]);
  }
  if (ending == Ending::kComplete && trie != Lexicon::kRoot) add_word(word_at(trie));
  if (ending != Ending::kUnfinished && model_.lm && options.end_of_sentence) add_unit(model_.lm->end_of_sentence());
  result->lm_score = lm_score;
  result->acoustic_score = result->score - options.alpha * lm_score - bonus;
}

// A word's confidence: the share of the final beam's weight that goes through the same spelling of it.
void PrefixBeamSearch::set_confidences(const std::vector<Final>& all, const Final& best, Result* result) const {
  std::vector<uint32_t> position(nodes_.size(), 0);
  uint32_t length = 0;
  for (const uint32_t node : path_to(beam_[best.slot].node, false)) position[node] = ++length;
  std::vector<double> shared(length + 1, 0.0);  // weight of texts that leave the path after this many tokens
  double total = 0.0;
  for (const Final& other : all) {
    uint32_t node = other.slot == best.slot ? beam_[other.slot].node : other.text_node;
    while (node != kRoot && position[node] == 0) node = nodes_[node].parent;
    shared[node == kRoot ? 0 : position[node]] += other.weight;
    total += other.weight;
  }
  for (uint32_t i = length; i-- > 0;) shared[i] += shared[i + 1];
  for (WordResult& word : result->words) word.confidence = std::min(1.0, shared[position[word.last_node]] / total);
}

}  // namespace asr
