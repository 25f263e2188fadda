// The words that the search may spell: a flat trie, 16 bytes a node, children side by side in the order of their codes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asr {

// How many bits are set; without an instruction for it, which the oldest processors lack, compilers call a function.
inline uint32_t count_bits(uint32_t bits) {
  bits -= bits >> 1 & 0x55555555u;
  bits = (bits & 0x33333333u) + (bits >> 2 & 0x33333333u);
  return ((bits + (bits >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24;
}

class Lexicon {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr uint32_t kRoot = 0;

  struct Node {
    uint32_t children = 0;  // bit c: there is a child for code c
    uint32_t first = 0;     // index of the first child
    uint32_t word = kNone;  // the language model's index of the word that ends here
    float step = 1.0f;      // exp(look_ahead(this) - look_ahead(parent))
  };

  // Words to build from: their codes one after the other in `codes`.
  struct Entry {
    uint64_t head;  // the first ten codes, to sort by
    uint32_t begin, length, word;
    float look_ahead;  // natural log, already weighted
  };
  struct Words {
    std::string codes;
    std::vector<Entry> entries;
    // Takes the codes that were appended to `codes` since the last word.
    void add(uint32_t word, float look_ahead);
  };

  // floor: what any spelling is worth at least (the look-ahead of an unknown word; -inf in a closed vocabulary).
  Lexicon(Words words, float floor);

  const Node& operator[](uint32_t node) const { return nodes_[node]; }
  float look_ahead(uint32_t node) const { return look_ahead_[node]; }
  size_t node_count() const { return nodes_.size(); }
  size_t word_count() const { return word_count_; }

  uint32_t child(uint32_t node, uint8_t code) const {
    const Node& n = nodes_[node];
    const uint32_t bit = uint32_t{1} << code;
    if (!(n.children & bit)) return kNone;
    return n.first + count_bits(n.children & (bit - 1));
  }

 private:
  void build(const Words& words);
  void set_steps(float floor);

  std::vector<Node> nodes_;
  std::vector<float> look_ahead_;
  size_t word_count_ = 0;
};

}  // namespace asr
