// What KenLM follows inside its binaries without looking: checked once, so that a damaged file cannot end the process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace asr {

// A KenLM binary, as its header describes it.
struct KenlmBinary {
  int type;                      // lm::ngram::ModelType
  uint64_t header;               // bytes before the word table
  uint64_t bytes;                // of the whole file
  float multiplier;              // buckets of a hash table for each of its entries
  std::vector<uint64_t> counts;  // n-grams of each order from 1 on
};

// What is wrong with the word table and the n-grams of the file at `path`; empty where every lookup stays inside.
// Probabilities are not checked. Reads all but the longest n-grams once.
std::string fault_inside(const std::string& path, const KenlmBinary& binary);

}  // namespace asr
