// KenLM behind the few things that the search asks of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lm/state.hh"
#include "lm/virtual_interface.hh"

namespace asr {

class LanguageModel {
 public:
  using State = lm::ngram::State;

  // path: an ARPA file or any KenLM binary (which is memory-mapped). Throws DecoderError for anything else, after
  // checking what KenLM trusts: the header against the file's length, and the pointers between n-grams. keep_words:
  // read the strings of the vocabulary too, where the file has them.
  LanguageModel(const std::string& path, bool keep_words);

  int order() const { return model_->Order(); }
  State begin() const;
  State no_context() const;
  uint32_t end_of_sentence() const { return model_->BaseVocabulary().EndSentence(); }
  uint32_t index(std::string_view word) const;  // 0 is the unknown word

  // ln P(word | state); to: the state after the word.
  float score(const State& from, uint32_t word, State* to) const;

  bool has_words() const { return !offsets_.empty(); }
  // Every word of the vocabulary but <unk>, <s> and </s>, with its index.
  void each_word(const std::function<void(std::string_view, uint32_t)>& visit) const;

 private:
  std::unique_ptr<lm::base::Model> model_;
  std::string strings_;            // the vocabulary, word after word
  std::vector<uint32_t> offsets_;  // where word i begins in strings_; one more at the end
};

}  // namespace asr
