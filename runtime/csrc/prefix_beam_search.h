// CTC prefix beam search: docs/decoder.md says what is maximised and how.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "search_model.h"

namespace asr {

struct WordResult {
  std::string text;
  uint32_t start = 0;  // first frame
  uint32_t end = 0;    // frame after the last
  double confidence = 0.0;
  uint32_t last_node = 0;  // of the search; where the spelling ends
};

struct Result {
  std::string text;
  double score = 0.0;
  double acoustic_score = 0.0;
  double lm_score = 0.0;
  std::vector<WordResult> words;
};

class PrefixBeamSearch {
 public:
  explicit PrefixBeamSearch(const SearchModel& model);

  void reset();
  // log_probs: [frames, tokens], row by row; every row has a finite value.
  void feed(const float* log_probs, size_t frames);
  std::vector<Result> finish() const { return results(Ending::kComplete, model_.options.n_best); }
  Result partial() const { return results(Ending::kUnfinished, 1).front(); }
  size_t node_count() const { return nodes_.size() - free_.size(); }

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr uint32_t kOpen = 0xFFFFFFFE;     // a spelling that has left the lexicon
  static constexpr uint32_t kUnknown = 0xFFFFFFFD;  // a closed word that is not in the lexicon
  static constexpr uint32_t kRoot = 0;

  // A prefix: its token and what is known for good. Only prefixes that are alive, or that some living one extends,
  // exist.
  struct Node {
    uint32_t parent, first_child, next_sibling;
    uint32_t slot;  // place in the beam, or kNone
    uint32_t token;
    uint32_t trie;         // lexicon node of the unfinished word, kRoot between words, kOpen
    uint32_t state_node;   // the node whose states_ entry is this prefix's language model state
    uint32_t closed_word;  // the word that this token closed: the language model's index, kUnknown, kNone
    uint32_t entered;      // frame of the heaviest arrival
    uint32_t parent_exit;  // where the parent's token ended at that arrival
    uint32_t words;        // closed words so far
  };

  // The beam, one entry a living prefix. Weights are linear and hold the language model: weight of the alignments that
  // end in the blank, and of those that end in the token itself.
  struct Beam {
    std::vector<double> blank, label, edge;  // edge: what the step from the parent multiplies by
    std::vector<uint32_t> node, token, trie, exit;
    void resize(size_t n);
    void move(size_t from, size_t to);
  };

  struct Candidate {
    double weight, edge;
    uint32_t slot, token, trie, closed_word;
    uint32_t state;  // index into new_states_, or kNone: the parent's
  };

  struct CacheEntry {
    uint64_t key = 0;
    float log_probability = 0.0f;
    LanguageModel::State state;
  };

  struct Step {  // what following a token does to a prefix
    uint32_t trie, closed_word, state;
    double edge;
  };

  struct Final {
    double weight, part;  // of the text, and of the prefix that stands for it
    uint32_t slot;
    uint32_t text_node;  // where the text ends, without a space after it
  };

  enum class Ending { kUnfinished, kComplete, kDropUnfinished };

  void load_frame(const float* x);
  void propagate();
  void expand();
  bool follow(uint32_t slot, uint32_t token, Step* step);
  bool spell(const Token& token, Step* step) const;
  bool close_word(uint32_t trie, uint32_t node, Step* step);
  bool add_token_unit(uint32_t token, uint32_t node, Step* step);
  bool has_living_child(uint32_t slot, uint32_t token) const;
  void select();
  double cut_to_beam_size(double cut);
  void compact(double cut, size_t old_size);
  void admit(const Candidate& candidate);
  void renormalise();
  uint32_t child_of(uint32_t node, uint32_t token) const;
  uint32_t new_node(uint32_t parent, const Candidate& candidate);
  void release(uint32_t node);
  const CacheEntry& score(uint32_t state_node, uint32_t word) const;
  double word_weight(uint32_t trie, double log_probability) const;
  uint32_t word_at(uint32_t trie) const;

  std::vector<Result> results(Ending ending, uint32_t n_best) const;
  std::vector<Final> finals(Ending ending) const;
  double final_factor(uint32_t slot, bool drop_unfinished) const;
  std::vector<uint32_t> path_to(uint32_t node, bool tokens) const;
  Result trace(const Final& final, Ending ending) const;
  void set_scores(const std::vector<uint32_t>& path, uint32_t trie, Ending ending, Result* result) const;
  void set_confidences(const std::vector<Final>& all, const Final& best, Result* result) const;

  const SearchModel& model_;
  double threshold_;

  std::vector<Node> nodes_;
  std::vector<uint32_t> free_;
  std::vector<LanguageModel::State> states_;
  Beam beam_;
  size_t size_ = 0;

  uint32_t frame_ = 0;
  double log_scale_ = 0.0;
  std::vector<double> p_;  // probability of each token in this frame over that of the likeliest; one 0 at the end
  std::vector<uint32_t> expandable_;  // tokens above the floor, likeliest first
  double best_ = 0.0;
  std::vector<double> next_blank_, next_label_;
  std::vector<uint64_t> child_tokens_;  // bit (token mod 64) of every living child
  std::vector<Candidate> candidates_;
  std::vector<LanguageModel::State> new_states_;
  std::vector<double> weights_;
  std::vector<uint32_t> dropped_;
  mutable std::vector<CacheEntry> cache_;
};

}  // namespace asr
