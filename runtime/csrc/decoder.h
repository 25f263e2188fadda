// Decoding of whole utterances, one after the other or on several threads.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "prefix_beam_search.h"

namespace asr {

struct Emissions {
  const float* log_probs;  // [frames, tokens]
  size_t frames;
};

// The first thing wrong with log-probabilities, as a sentence; empty when all is well. Rows are counted from
// first_frame.
std::string fault_of(const Emissions& emissions, size_t tokens, size_t first_frame = 0);

class Decoder {
 public:
  explicit Decoder(std::shared_ptr<const SearchModel> model) : model_(std::move(model)) {}

  const SearchModel& model() const { return *model_; }
  std::shared_ptr<const SearchModel> shared_model() const { return model_; }
  std::vector<Result> decode(const Emissions& emissions, const std::shared_ptr<const HotWords>& hot_words);
  std::vector<std::vector<Result>> decode_batch(const std::vector<Emissions>& batch, unsigned threads,
                                                const std::shared_ptr<const HotWords>& hot_words);

 private:
  std::unique_ptr<PrefixBeamSearch> take();
  void give_back(std::unique_ptr<PrefixBeamSearch> search);

  std::shared_ptr<const SearchModel> model_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<PrefixBeamSearch>> idle_;  // searches keep their memory and caches between utterances
};

}  // namespace asr
