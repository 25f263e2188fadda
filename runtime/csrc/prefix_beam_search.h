// CTC prefix beam search: docs/decoder.md says what is maximised and how.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hot_words.h"
#include "search_model.h"

namespace asr {

struct WordResult {
  std::string text;
  uint32_t start = 0;  // first frame
  uint32_t end = 0;    // frame after the last
  double confidence = 0.0;
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

  // Begins a new utterance. hot_words: null for none.
  void reset(std::shared_ptr<const HotWords> hot_words = nullptr);
  // log_probs: [frames, tokens], row by row; every row has a finite value.
  void feed(const float* log_probs, size_t frames);
  std::vector<Result> finish() const { return results(Ending::kComplete, model_.options.n_best); }
  Result partial() const { return results(Ending::kUnfinished, 1).front(); }
  size_t node_count() const { return nodes_.size() - free_.size(); }

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr uint32_t kOpen = 0xFFFFFFFE;        // a spelling that has left the lexicon
  static constexpr uint32_t kUnknown = 0xFFFFFFFD;     // a closed word that is not in the lexicon
  static constexpr uint32_t kUnknownHot = 0xFFFFFFFC;  // the same, and a hot word
  static constexpr uint32_t kRoot = 0;

  // A prefix: its token and what is known for good. Only prefixes that are alive, or that some living one extends,
  // exist.
  struct Node {
    uint32_t parent, first_child, next_sibling;
    uint32_t slot;  // place in the beam, or kNone
    uint32_t token;
    uint32_t trie;         // lexicon node of the unfinished word, kRoot between words, kOpen
    uint32_t state;        // index into states_: its language model state, which prefixes of the same words share
    uint32_t closed_word;  // the word that this token closed: the language model's index, kUnknown, kNone; where words
                           // are pronounced, the word's number in the lexicon and, behind that, the hot words
    uint32_t entered;      // frame of the heaviest arrival
    uint32_t parent_exit;  // where the parent's token ended at that arrival
    float trust;           // of the word that this token closed: the share of the merged prefixes that have it, too
    uint32_t depth;        // tokens from the root
    uint32_t spelling;     // of the word that this token closed, to tell words apart; kNone
  };

  // A living prefix. Weights are linear and hold the language model: weight of the alignments that end in the blank,
  // and of those that end in the token itself.
  struct Slot {
    double blank, label;
    double edge;        // what the step from the parent multiplies by
    uint64_t state;     // hash of the language model state
    uint64_t future;    // equal for prefixes that go on alike: same token, place in the lexicon, language model state
    uint32_t children;  // of the place in the lexicon, as in Lexicon::Node
    uint32_t first;
    uint32_t node, token, trie, exit;
    uint32_t hot;       // place in the hot words
    float merged;       // weight of all prefixes that this one stands for, over its own
    double hot_credit;  // what hot words have added to the weight (natural log)
  };

  // A prefix that may enter the beam in this frame.
  struct Candidate {
    double weight, edge;
    uint64_t state, future;
    uint32_t parent, parent_exit;  // as in Node
    uint32_t token, trie, hot;
    uint32_t closed_word = kNone;
    uint32_t spelling = kNone;  // as in Node
    float merged;
    double hot_credit;
    float trust = 1.0f;          // as in Node
    uint32_t new_state = kNone;  // index into new_states_, or kNone: the parent's
  };

  struct Expansion {  // a token above the floor
    double p;
    uint32_t token;
    uint32_t letter;  // the lexicon's bit of a token that is one letter and nothing else; otherwise 0
  };

  struct Cut {
    double weight;
    size_t ties;  // how many of exactly this weight pass

    bool passes(double w) {
      if (w != weight) return w > weight;
      return w > 0.0 && ties > 0 && ties-- > 0;
    }
  };

  struct MergeEntry {
    uint64_t future = 0;
    uint32_t stamp = 0, index = 0;
  };

  struct CacheEntry {
    uint64_t key = 0;
    float log_probability = 0.0f;
    LanguageModel::State state;
  };

  struct Step {  // what following a token does to a prefix
    uint32_t trie, closed_word, new_state, hot, spelling;
    double edge, hot_gain;
  };

  struct Final {
    double weight, part;  // of the text, and of the prefix that stands for it
    double mass, sure;    // weight with all that merged into it, hot words taken out, on a scale that all texts share;
                          // and of that what has the last word
    uint32_t slot;
    uint32_t text;  // equal for equal texts
    uint32_t word;  // that the end of the text closes, as Node::closed_word; kNone between words
  };

  struct Homophone {  // one of the words that a prefix may close with the next token
    Step step;
    uint64_t future;  // as in Slot
    double plain;     // the step's edge without hot words
    double merged;    // what all that it stands for weigh over it; 0 where another stands for it
  };

  enum class Ending { kUnfinished, kComplete, kDropUnfinished };

  void load_frame(const float* x);
  void find_expansions(const float* x);
  void propagate();
  void expand();
  void expand_slot(uint32_t slot, double* cut);
  void expand_letter(uint32_t slot, uint32_t code, double total, double* cut);
  void expand_other(uint32_t slot, uint32_t token, double mass, double* cut);
  void expand_homophones(uint32_t slot, uint32_t token, double mass, double* cut);
  void join(Homophone* homophone);
  Candidate* expand_step(uint32_t slot, uint32_t token, const Step& step, double mass, double* cut);
  void enter(const Slot& parent, Candidate* candidate, double* cut);
  bool follow(uint32_t slot, uint32_t token, Step* step);
  bool spell(const Token& token, Step* step) const;
  bool close_word(uint32_t node, Step* step);
  void add_token_unit(uint32_t token, uint32_t node, Step* step);
  bool has_living_child(uint32_t slot, uint32_t token) const;
  bool has_living_child(uint32_t slot, uint32_t token, uint32_t closed_word) const;
  void merge_equal_futures();
  bool merge_into(uint32_t winner, uint32_t loser);
  bool spell_the_same(uint32_t a, uint32_t b) const;
  bool add_same_text(uint32_t winner, uint32_t loser);
  void doubt(uint32_t winner, uint32_t loser, double share);
  void different_words(uint32_t node, uint32_t other, uint32_t last, std::vector<uint32_t>* closing) const;
  float& merged_of(uint32_t index);
  double hot_credit_of(uint32_t index) const;
  void select();
  void cut_to_beam_size(Cut* cut);
  void drop_light(Cut* cut);
  void admit(const Candidate& candidate);
  void renormalise();
  uint32_t child_of(uint32_t node, uint32_t token) const {
    uint32_t child = nodes_[node].first_child;
    while (child != kNone && nodes_[child].token != token) child = nodes_[child].next_sibling;
    return child;
  }
  uint32_t child_of(uint32_t node, uint32_t token, uint32_t closed_word) const {
    uint32_t child = nodes_[node].first_child;
    while (child != kNone && (nodes_[child].token != token || nodes_[child].closed_word != closed_word)) {
      child = nodes_[child].next_sibling;
    }
    return child;
  }
  uint32_t new_node(uint32_t parent, const Candidate& candidate);
  uint32_t keep_state(const LanguageModel::State& state);
  void release(uint32_t node);
  const CacheEntry& score(uint32_t from, uint32_t word) const;
  double word_weight(uint32_t trie, uint32_t word, double log_probability) const;
  uint32_t word_at(uint32_t trie, uint32_t hot) const;
  void words_at(uint32_t trie, uint32_t hot, std::vector<uint32_t>* words) const;
  double look_ahead(uint32_t trie) const;
  uint32_t spelling_of(uint32_t node, uint32_t trie) const;
  double hot_end(const Slot& slot, uint32_t word) const;
  uint32_t lm_index(uint32_t word) const;
  const std::string& text_of(uint32_t word) const;

  std::vector<Result> results(Ending ending, uint32_t n_best) const;
  std::vector<Final> finals(Ending ending) const;
  double final_factor(const Slot& slot, uint32_t word) const;
  void add_up(std::vector<Final>* all) const;
  void number_texts(std::vector<Final>* all) const;
  void append_text(uint32_t token, std::string* text) const;
  std::string text_of_prefix(uint32_t node) const;
  uint32_t last_spelling(const Final& final) const;
  std::vector<uint32_t> words_of(const Final& final, uint32_t stem = kRoot) const;
  std::vector<uint32_t> path_to(uint32_t node, bool tokens, uint32_t stem = kRoot) const;
  uint32_t common(uint32_t a, uint32_t b) const;
  Result trace(const Final& final, Ending ending) const;
  void set_scores(const std::vector<uint32_t>& path, const Final& final, Ending ending, Result* result) const;
  void set_confidences(const std::vector<Final>& all, const Final& best, Result* result) const;

  const SearchModel& model_;
  double threshold_;
  bool merges_futures_;
  bool spells_twice_;              // the same text may stand on different tokens, as "ab" on "a", "b" and on "ab"
  std::vector<uint32_t> letters_;  // Expansion::letter of every token
  std::vector<uint32_t> firsts_;   // the bit of the first code of each token that goes on in the lexicon; otherwise 0

  std::vector<Node> nodes_;
  std::vector<uint32_t> free_;
  std::vector<LanguageModel::State> states_;
  std::vector<uint32_t> free_states_;
  std::vector<Slot> beam_;

  uint32_t frame_ = 0;
  double log_scale_ = 0.0;
  std::shared_ptr<const HotWords> hot_words_;
  std::vector<float> p_;  // probability of each token in this frame over that of the likeliest; one 0 at the end
  std::vector<uint32_t> above_floor_;
  std::vector<Expansion> expansions_, other_expansions_;  // all, and those that are no letter; likeliest first
  double likeliest_ = 0.0;
  uint32_t letters_above_floor_ = 0;             // the bits of the letters,
  std::array<Expansion, 32> letter_expansions_;  // and they by their code
  double best_ = 0.0;                            // heaviest prefix of this frame
  double least_ = 0.0;                           // lightest prefix that lived before this frame
  std::vector<double> next_blank_, next_label_;
  std::vector<uint64_t> child_tokens_;  // bit (token mod 64) of every living child
  std::vector<Candidate> candidates_;
  std::vector<LanguageModel::State> new_states_;
  std::vector<double> weights_;
  std::vector<uint32_t> dropped_;
  std::vector<MergeEntry> merges_;
  uint32_t merge_stamp_ = 0;
  std::vector<Homophone> homophones_;
  mutable std::vector<uint32_t> different_, other_words_, words_;
  mutable std::vector<CacheEntry> cache_;
};

}  // namespace asr
