#include "lexicon.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

namespace asr {

void Lexicon::Words::add(uint32_t word, float look_ahead) {
  const auto begin = entries.empty() ? 0 : entries.back().begin + entries.back().length;
  const auto length = static_cast<uint32_t>(codes.size()) - begin;
  uint64_t head = 0;  // six bits a code, 0 for none, so that shorter words come first
  for (uint32_t i = 0; i < 10; ++i) head = head << 6 | (i < length ? static_cast<uint8_t>(codes[begin + i]) + 1u : 0u);
  entries.push_back({head, begin, length, word, look_ahead});
}

Lexicon::Lexicon(Words words, float floor) {
  const char* codes = words.codes.data();
  const auto spelling = [codes](const Entry& e) { return std::string_view(codes + e.begin, e.length); };
  std::sort(words.entries.begin(), words.entries.end(), [&](const Entry& a, const Entry& b) {
    if (a.head != b.head) return a.head < b.head;
    if (a.length > 10 || b.length > 10) {
      const int order = spelling(a).compare(spelling(b));
      if (order != 0) return order < 0;
    }
    return a.word < b.word;
  });
  const auto same = [&](const Entry& a, const Entry& b) { return a.head == b.head && spelling(a) == spelling(b); };
  words.entries.erase(std::unique(words.entries.begin(), words.entries.end(), same), words.entries.end());
  word_count_ = words.entries.size();
  build(words);
  set_steps(floor);
}

// Breadth first, so that the children of a node lie side by side and every child has a higher index than its parent.
void Lexicon::build(const Words& words) {
  struct Range {
    uint32_t begin, end, depth;
  };
  const std::vector<Entry>& entries = words.entries;
  std::vector<Range> ranges{{0, static_cast<uint32_t>(entries.size()), 0}};
  ranges.reserve(3 * entries.size());
  nodes_.reserve(3 * entries.size());
  look_ahead_.reserve(3 * entries.size());
  nodes_.resize(1);
  look_ahead_.assign(1, -std::numeric_limits<float>::infinity());
  for (size_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    if (begin < end && entries[begin].length == depth) {
      nodes_[node].word = entries[begin].word;
      look_ahead_[node] = entries[begin].look_ahead;
      ++begin;
    }
    nodes_[node].first = static_cast<uint32_t>(nodes_.size());
    const auto code_at = [&, at = depth](uint32_t entry) { return words.codes[entries[entry].begin + at]; };
    while (begin < end) {
      const char code = code_at(begin);
      uint32_t stop = begin + 1;
      while (stop < end && code_at(stop) == code) ++stop;
      nodes_[node].children |= uint32_t{1} << code;
      nodes_.emplace_back();
      look_ahead_.push_back(-std::numeric_limits<float>::infinity());
      ranges.push_back({begin, stop, depth + 1});
      begin = stop;
    }
  }
  nodes_.shrink_to_fit();
  look_ahead_.shrink_to_fit();
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
