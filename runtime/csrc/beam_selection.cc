// Which prefixes live on: merging, the cut to the beam size, and the tree that keeps what living prefixes stand on.
#include <algorithm>
#include <cmath>
#include <functional>

#include "prefix_beam_search.h"

namespace asr {
namespace {

// Merged prefixes of a smaller share of the weight leave confidences alone.
constexpr double kLeastDoubt = 0.005;
constexpr double kSmallest = 1e-60, kLargest = 1e60;  // the best weight is brought back to 1 beyond these

}  // namespace

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
    } else if (spells_twice_ && add_same_text(entry.index, i)) {
      continue;
    } else if (!merge_into(entry.index, i) && merge_into(i, entry.index)) {
      entry.index = i;
    }
  }
}

float& PrefixBeamSearch::merged_of(uint32_t index) {
  return index < beam_.size() ? beam_[index].merged : candidates_[index - beam_.size()].merged;
}

double PrefixBeamSearch::hot_credit_of(uint32_t index) const {
  if (!hot_words_) return 0.0;
  if (index < beam_.size()) return beam_[index].hot_credit;
  return candidates_[index - beam_.size()].hot_credit;
}

// The share of the weight that goes to the loser speaks against each word that the winner has and the loser lacks. The
// same rival comes back frame after frame, so that the largest share counts, not the product.
void PrefixBeamSearch::doubt(uint32_t winner, uint32_t loser, double share) {
  const size_t old_size = beam_.size();
  const auto node_of = [&](uint32_t i) { return i < old_size ? beam_[i].node : candidates_[i - old_size].parent; };
  const auto closed_by = [&](uint32_t i) { return i < old_size ? kNone : candidates_[i - old_size].spelling; };
  const auto lower = [most = static_cast<float>(1.0 - share)](float* trust) { *trust = std::min(*trust, most); };
  different_words(node_of(winner), node_of(loser), closed_by(loser), &different_);
  for (const uint32_t node : different_) lower(&nodes_[node].trust);
  const uint32_t closed = closed_by(winner);
  if (closed != kNone && closed != closed_by(loser)) lower(&candidates_[winner - old_size].trust);
}

// Nodes that close a word on the way to `node` which the way to `other` (closing the spelling `last` after it) does not
// have.
void PrefixBeamSearch::different_words(uint32_t node, uint32_t other, uint32_t last,
                                       std::vector<uint32_t>* closing) const {
  closing->clear();
  other_words_.clear();
  if (last != kNone) other_words_.push_back(last);
  while (node != other) {
    if (nodes_[node].depth >= nodes_[other].depth) {
      if (nodes_[node].spelling != kNone) closing->push_back(node);
      node = nodes_[node].parent;
    } else {
      if (nodes_[other].spelling != kNone) other_words_.push_back(nodes_[other].spelling);
      other = nodes_[other].parent;
    }
  }
  const auto shared = [&](uint32_t n) {
    return std::find(other_words_.begin(), other_words_.end(), nodes_[n].spelling) != other_words_.end();
  };
  closing->erase(std::remove_if(closing->begin(), closing->end(), shared), closing->end());
}

// Whether two prefixes spell the same; only looks at what they do not share, so that the cost does not grow with the
// text.
bool PrefixBeamSearch::spell_the_same(uint32_t a, uint32_t b) const {
  std::vector<uint32_t> a_tokens, b_tokens;
  while (a != b) {
    const bool a_is_deeper = nodes_[a].depth >= nodes_[b].depth;
    uint32_t& deeper = a_is_deeper ? a : b;
    (a_is_deeper ? a_tokens : b_tokens).push_back(nodes_[deeper].token);
    deeper = nodes_[deeper].parent;
  }
  const auto spelled = [&](const std::vector<uint32_t>& tokens) {
    std::string text(a == kRoot ? "" : ".");  // behind something a mark is a space
    for (auto token = tokens.rbegin(); token != tokens.rend(); ++token) append_text(*token, &text);
    return text;
  };
  return spelled(a_tokens) == spelled(b_tokens);
}

// Where both are the same text, spelled by different tokens, their weights add up. The winner is the earlier of the
// two, so that it is in the beam already, or both are new. Their last tokens are the same, as their futures are.
bool PrefixBeamSearch::add_same_text(uint32_t winner, uint32_t loser) {
  const auto old_size = static_cast<uint32_t>(beam_.size());
  const auto parent_of = [&](uint32_t i) {
    return i < old_size ? nodes_[beam_[i].node].parent : candidates_[i - old_size].parent;
  };
  const auto weigh = [&](uint32_t i) {
    return i < old_size ? next_blank_[i] + next_label_[i] : candidates_[i - old_size].weight;
  };
  const double own = weigh(winner), other = weigh(loser);
  const uint32_t a = parent_of(winner), b = parent_of(loser);
  if (!(own > 0.0 && other > 0.0) || a == kNone || b == kNone || !spell_the_same(a, b)) return false;
  merged_of(winner) = static_cast<float>((own * merged_of(winner) + other * merged_of(loser)) / (own + other));
  double& label = winner < old_size ? next_label_[winner] : candidates_[winner - old_size].weight;
  if (loser < old_size) {
    next_blank_[winner] += next_blank_[loser];
    label += next_label_[loser];
    next_blank_[loser] = next_label_[loser] = 0.0;
  } else {
    label += candidates_[loser - old_size].weight;
    candidates_[loser - old_size].weight = 0.0;
  }
  best_ = std::max(best_, own + other);
  return true;
}

// Drops the loser if the winner is at least as heavy in both parts.
bool PrefixBeamSearch::merge_into(uint32_t winner, uint32_t loser) {
  const auto old_size = static_cast<uint32_t>(beam_.size());
  const auto blank = [&](uint32_t i) { return i < old_size ? next_blank_[i] : 0.0; };
  const auto label = [&](uint32_t i) { return i < old_size ? next_label_[i] : candidates_[i - old_size].weight; };
  if (blank(winner) < blank(loser) || label(winner) < label(loser)) return false;
  // Confidences count what the acoustic and language models say, without hot words.
  const double own = blank(winner) + label(winner);
  const double hot = hot_credit_of(winner) - hot_credit_of(loser);
  const double other = (blank(loser) + label(loser)) * std::exp(hot) * merged_of(loser);
  const double share = other / (own * merged_of(winner) + other);
  if (share > kLeastDoubt) {
    doubt(winner, loser, share);
    merged_of(winner) += static_cast<float>(other / own);
  }
  if (loser < old_size) {
    next_blank_[loser] = next_label_[loser] = 0.0;
  } else {
    candidates_[loser - old_size].weight = 0.0;
  }
  return true;
}

void PrefixBeamSearch::select() {
  if (merges_futures_ && !candidates_.empty()) merge_equal_futures();
  Cut cut{best_ * threshold_, beam_.size() + candidates_.size()};
  if (cut.ties > model_.options.beam_size) cut_to_beam_size(&cut);
  drop_light(&cut);
  for (const Candidate& candidate : candidates_) {
    if (cut.passes(candidate.weight)) admit(candidate);
  }
  for (const uint32_t node : dropped_) release(node);
  renormalise();
}

// Raises the cut so that no more than beam_size pass; of equal weights the first in the beam's order do.
void PrefixBeamSearch::cut_to_beam_size(Cut* cut) {
  weights_.clear();
  for (size_t i = 0; i < beam_.size(); ++i) {
    const double total = next_blank_[i] + next_label_[i];
    if (total >= cut->weight) weights_.push_back(total);
  }
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight >= cut->weight) weights_.push_back(candidate.weight);
  }
  const size_t beam = model_.options.beam_size;
  if (weights_.size() <= beam) return;
  const auto last = weights_.begin() + static_cast<std::ptrdiff_t>(beam) - 1;
  std::nth_element(weights_.begin(), last, weights_.end(), std::greater<double>());
  cut->weight = *last;
  cut->ties = 1 + static_cast<size_t>(std::count(weights_.begin(), last, *last));
}

// Drops what does not pass and moves the rest together. Nodes are released later: new prefixes may stand on them.
void PrefixBeamSearch::drop_light(Cut* cut) {
  Slot* const beam = beam_.data();
  const double *const blank = next_blank_.data(), *const label = next_label_.data();
  size_t kept = 0;
  dropped_.clear();
  for (size_t i = 0, size = beam_.size(); i < size; ++i) {
    Node& node = nodes_[beam[i].node];
    if (!cut->passes(blank[i] + label[i])) {
      node.slot = kNone;
      dropped_.push_back(beam[i].node);
      continue;
    }
    if (i != kept) beam[kept] = beam[i];
    beam[kept].blank = blank[i];
    beam[kept].label = label[i];
    node.slot = static_cast<uint32_t>(kept++);
  }
  beam_.resize(kept);
}

// Appends a new prefix to the beam.
void PrefixBeamSearch::admit(const Candidate& candidate) {
  uint32_t node = child_of(candidate.parent, candidate.token, candidate.closed_word);
  if (node == kNone) node = new_node(candidate.parent, candidate);
  nodes_[node].slot = static_cast<uint32_t>(beam_.size());
  nodes_[node].entered = frame_;
  nodes_[node].parent_exit = candidate.parent_exit;
  Slot& slot = beam_.emplace_back();
  slot.blank = 0.0;
  slot.label = candidate.weight;
  slot.edge = candidate.edge;
  slot.state = candidate.state;
  slot.future = candidate.future;
  slot.node = node;
  slot.token = candidate.token;
  slot.trie = candidate.trie;
  slot.exit = frame_ + 1;
  slot.hot = candidate.hot;
  slot.merged = candidate.merged;
  slot.hot_credit = candidate.hot_credit;
  if (model_.lexicon && candidate.trie != kOpen) {
    slot.children = (*model_.lexicon)[candidate.trie].children;
    slot.first = (*model_.lexicon)[candidate.trie].first;
    if (slot.children != 0) __builtin_prefetch(&(*model_.lexicon)[slot.first]);
  }
}

void PrefixBeamSearch::renormalise() {
  if (best_ > kSmallest && best_ < kLargest) return;
  for (Slot& slot : beam_) {
    slot.blank /= best_;
    slot.label /= best_;
  }
  log_scale_ += std::log(best_);
}

uint32_t PrefixBeamSearch::new_node(uint32_t parent, const Candidate& candidate) {
  uint32_t node = static_cast<uint32_t>(nodes_.size());
  if (free_.empty()) {
    nodes_.emplace_back();
  } else {
    node = free_.back();
    free_.pop_back();
  }
  Node& up = nodes_[parent];
  const bool has_state = candidate.new_state != kNone;
  const uint32_t state = has_state ? keep_state(new_states_[candidate.new_state]) : up.state;
  nodes_[node] = {parent,          kNone,        up.first_child,        kNone, candidate.token,
                  candidate.trie,  state,        candidate.closed_word, 0,     0,
                  candidate.trust, up.depth + 1, candidate.spelling};
  up.first_child = node;
  return node;
}

uint32_t PrefixBeamSearch::keep_state(const LanguageModel::State& state) {
  if (free_states_.empty()) {
    states_.push_back(state);
    return static_cast<uint32_t>(states_.size()) - 1;
  }
  const uint32_t place = free_states_.back();
  free_states_.pop_back();
  states_[place] = state;
  return place;
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
    if (nodes_[node].state != nodes_[parent].state) free_states_.push_back(nodes_[node].state);
    free_.push_back(node);
    node = parent;
  }
}

}  // namespace asr
