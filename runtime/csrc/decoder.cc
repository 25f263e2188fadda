#include "decoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <string>
#include <thread>

#include "errors.h"

namespace asr {
namespace {

// Rounding to 16 bits may lift a log-probability of 0 a little.
constexpr float kHighestLogProbability = 1e-2f;

std::string describe_positive(const Emissions& emissions, size_t tokens, float highest) {
  const size_t count = emissions.frames * tokens;
  const bool probabilities = std::all_of(emissions.log_probs, emissions.log_probs + count,
                                         [](float v) { return v >= 0.0f && v <= 1.0f + kHighestLogProbability; });
  if (probabilities)
    return "got values from 0 to 1, which look like probabilities; wanted natural logarithms: take np.log";
  return "got values up to " + std::to_string(highest) +
         ", but log-probabilities are at most 0; logits need a log_softmax over the tokens first";
}

}  // namespace

std::string fault_of(const Emissions& emissions, size_t tokens, size_t first_frame) {
  float highest = -std::numeric_limits<float>::infinity();
  for (size_t t = 0; t < emissions.frames; ++t) {
    const float* row = emissions.log_probs + t * tokens;
    float top = -std::numeric_limits<float>::infinity();
    bool ordered = true;
    for (size_t k = 0; k < tokens; ++k) {
      ordered &= row[k] == row[k];
      top = row[k] > top ? row[k] : top;
    }
    if (ordered && std::isfinite(top)) {
      highest = std::max(highest, top);
      continue;
    }
    const std::string frame = "frame " + std::to_string(first_frame + t);
    if (!ordered) return frame + " has a NaN; wanted natural-log probabilities [frames, tokens]";
    if (top > 0.0f) return frame + " has +inf; wanted natural-log probabilities, at most 0";
    return frame + " is all -inf; wanted at least one possible token";
  }
  return highest > kHighestLogProbability ? describe_positive(emissions, tokens, highest) : std::string();
}

std::unique_ptr<PrefixBeamSearch> Decoder::take() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.empty()) return std::make_unique<PrefixBeamSearch>(*model_);
  auto search = std::move(idle_.back());
  idle_.pop_back();
  return search;
}

void Decoder::give_back(std::unique_ptr<PrefixBeamSearch> search) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(search));
}

std::vector<Result> Decoder::decode(const Emissions& emissions, const std::shared_ptr<const HotWords>& hot_words) {
  auto search = take();
  search->reset(hot_words);
  search->feed(emissions.log_probs, emissions.frames);
  auto results = search->finish();
  give_back(std::move(search));
  return results;
}

std::vector<std::vector<Result>> Decoder::decode_batch(const std::vector<Emissions>& batch, unsigned threads,
                                                       const std::shared_ptr<const HotWords>& hot_words) {
  std::vector<std::vector<Result>> results(batch.size());
  std::vector<std::exception_ptr> failures(batch.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < batch.size(); i = next++) {
      try {
        results[i] = decode(batch[i], hot_words);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> pool;
  for (size_t i = 1; i < std::min<size_t>(threads, batch.size()); ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return results;
}

}  // namespace asr
