#include "lexicon.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace asr {

// floor: what any spelling is worth at least (the look-ahead of an unknown word; -inf in a closed vocabulary).
Lexicon::Lexicon(std::vector<Entry> entries, float floor) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.codes != b.codes ? a.codes < b.codes : a.word < b.word; });
  entries.erase(
      std::unique(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.codes == b.codes; }),
      entries.end());
  word_count_ = entries.size();
  build(entries);
  set_steps(floor);
}

// Breadth first, so that the children of a node lie side by side and every child has a higher index than its parent.
void Lexicon::build(const std::vector<Entry>& entries) {
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> ranges{{0, entries.size()}};
  std::vector<size_t> depths{0};
  nodes_.resize(1);
  look_ahead_.assign(1, -std::numeric_limits<float>::infinity());
  for (size_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end] = ranges[node];
    const size_t depth = depths[node];
    if (begin < end && entries[begin].codes.size() == depth) {
      nodes_[node].word = entries[begin].word;
      look_ahead_[node] = entries[begin].look_ahead;
      ++begin;
    }
    nodes_[node].first = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char code = entries[begin].codes[depth];
      size_t stop = begin + 1;
      while (stop < end && entries[stop].codes[depth] == code) ++stop;
      nodes_[node].children |= uint32_t{1} << code;
      nodes_.emplace_back();
      look_ahead_.push_back(-std::numeric_limits<float>::infinity());
      ranges.push_back({begin, stop});
      depths.push_back(depth + 1);
      begin = stop;
    }
  }
}

void Lexicon::set_steps(float floor) {
  const auto each_child = [this](size_t node, auto visit) {
    const auto count = static_cast<uint32_t>(__builtin_popcount(nodes_[node].children));
    for (uint32_t c = nodes_[node].first; c < nodes_[node].first + count; ++c) visit(c);
  };
  for (size_t node = nodes_.size(); node-- > 0;) {
    look_ahead_[node] = std::max(look_ahead_[node], floor);
    each_child(node, [&](uint32_t c) { look_ahead_[node] = std::max(look_ahead_[node], look_ahead_[c]); });
  }
  look_ahead_[kRoot] = 0.0f;  // between words nothing is looked ahead at
  for (size_t node = 0; node < nodes_.size(); ++node) {
    each_child(node, [&](uint32_t c) { nodes_[c].step = std::exp(look_ahead_[c] - look_ahead_[node]); });
  }
}

}  // namespace asr
