#include "language_model_contents.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "lm/bhiksha.hh"
#include "lm/model_type.hh"
#include "lm/quantize.hh"
#include "lm/search_hashed.hh"
#include "lm/search_trie.hh"
#include "lm/value.hh"
#include "lm/vocab.hh"
#include "util/bit_packing.hh"
#include "util/file.hh"
#include "util/mmap.hh"

namespace asr {
namespace {

using namespace lm::ngram;

constexpr uint8_t kMostQuantBits = 25;  // of KenLM's build_binary
const char kDamaged[] = "it is damaged inside: ";

template <typename T>
T read(const uint8_t* place) {
  T value;
  std::memcpy(&value, place, sizeof(value));
  return value;
}

std::string bad_pointers(size_t order) {
  return kDamaged + ("its " + std::to_string(order)) + "-grams point outside the next order";
}

// Lookups go on until they meet an empty bucket.
template <typename Entry>
bool has_room(const uint8_t* table, uint64_t bytes) {
  for (const uint8_t* end = table + bytes / sizeof(Entry) * sizeof(Entry); table < end; table += sizeof(Entry)) {
    if (read<uint64_t>(table) == 0) return true;
  }
  return false;
}

template <typename Value>
std::string fault_of_probing(const uint8_t* start, const KenlmBinary& binary, const Config& config) {
  using Words = util::ProbingHashTable<ProbingVocabularyEntry, util::IdentityHash>;
  using Middle = util::ProbingHashTable<typename Value::ProbingEntry, util::IdentityHash>;
  using Longest = util::ProbingHashTable<detail::ProbEntry, util::IdentityHash>;
  const std::vector<uint64_t>& counts = binary.counts;
  const uint64_t vocabulary = ProbingVocabulary::Size(counts[0], config);
  const uint64_t total = vocabulary + detail::HashedSearch<Value>::Size(counts, config);
  if (binary.header + total > binary.bytes) return {};  // KenLM says so better
  const uint64_t words = Words::Size(counts[0], config.probing_multiplier);
  const uint8_t* const table = start + vocabulary - words;
  if (!has_room<ProbingVocabularyEntry>(table, words)) return std::string(kDamaged) + "its word table is full";
  for (const uint8_t* entry = table; entry + sizeof(ProbingVocabularyEntry) <= table + words;
       entry += sizeof(ProbingVocabularyEntry)) {
    const auto word = read<ProbingVocabularyEntry>(entry);
    if (word.key != 0 && word.value > counts[0])
      return std::string(kDamaged) + "its word table has words beyond its own";
  }
  const uint8_t* ngrams = start + vocabulary + (counts[0] + 1) * sizeof(typename Value::Weights);
  for (size_t order = 2; order <= counts.size(); ++order) {
    const bool longest = order == counts.size();
    const uint64_t bytes = longest ? Longest::Size(counts[order - 1], config.probing_multiplier)
                                   : Middle::Size(counts[order - 1], config.probing_multiplier);
    if (!(longest ? has_room<detail::ProbEntry>(ngrams, bytes)
                  : has_room<typename Value::ProbingEntry>(ngrams, bytes))) {
      return kDamaged + ("its table of " + std::to_string(order)) + "-grams is full";
    }
    ngrams += bytes;
  }
  return {};
}

// The upper bits of the pointers of one order, which ArrayBhiksha keeps apart: where each value of them begins.
class UpperBits {
 public:
  UpperBits(const uint8_t* table, uint64_t bytes) {
    if (bytes == 0) return;
    const uint64_t padding = (8 - reinterpret_cast<uintptr_t>(table) % 8) % 8;
    begins_ = table + padding + sizeof(uint64_t);
    size_ = (bytes - 7) / sizeof(uint64_t) - 1;
  }

  bool climb() const {
    uint64_t before = 0;
    for (uint64_t i = 0; i < size_; ++i) {
      const uint64_t begin = at(i);
      if (begin < before || (i == 0 && begin != 0)) return false;
      before = begin;
    }
    return true;
  }

  // Of an entry, for entries that follow each other; `end` becomes the first behind it with others.
  uint64_t of(uint64_t entry, uint64_t* end) {
    while (next_ < size_ && at(next_) <= entry) ++next_;
    *end = next_ < size_ ? at(next_) : std::numeric_limits<uint64_t>::max();
    return next_ == 0 ? 0 : next_ - 1;
  }

 private:
  uint64_t at(uint64_t i) const { return read<uint64_t>(begins_ + i * sizeof(uint64_t)); }

  const uint8_t* begins_ = nullptr;
  uint64_t size_ = 0, next_ = 0;
};

// An n-gram points at the first n-gram of the next order that goes on with it; the next n-gram's pointer ends those.
template <typename Bhiksha>
bool middle_is_sound(const uint8_t* start, uint8_t quant_bits, uint64_t entries, uint64_t words, uint64_t next,
                     const Config& config) {
  const uint64_t upper_bytes = Bhiksha::Size(entries + 1, next, config);
  UpperBits upper(start, upper_bytes);
  if (!upper.climb()) return false;
  const uint8_t* const packed = start + upper_bytes;
  const auto inline_bits = Bhiksha::InlineBits(entries + 1, next, config);
  const util::BitsMask mask = util::BitsMask::ByBits(inline_bits);
  const uint64_t before_pointer = util::RequiredBits(words) + uint64_t{quant_bits};
  const uint64_t stride = before_pointer + inline_bits;
  uint64_t high = 0, last = 0;
  bool sound = true;
  for (uint64_t i = 0, bit = before_pointer; i <= entries;) {
    uint64_t end = 0;
    high = upper.of(i, &end);
    last = 0;
    for (end = std::min(end, entries + 1); i < end; ++i, bit += stride) {
      const uint64_t low = util::ReadInt57(packed, bit, inline_bits, mask.mask);
      sound &= low >= last;
      last = low;
    }
  }
  return sound && (high << inline_bits | last) <= next;
}

template <typename Quant, typename Bhiksha>
std::string fault_of_trie(const uint8_t* start, const KenlmBinary& binary, Config config) {
  const std::vector<uint64_t>& counts = binary.counts;
  const uint64_t vocabulary = SortedVocabulary::Size(counts[0], config);
  const uint64_t room = binary.bytes - binary.header;
  if (vocabulary + 3 > room) return {};  // KenLM says so better, here and below
  if (read<uint64_t>(start) >= counts[0]) return std::string(kDamaged) + "its word table has words beyond its own";
  const uint8_t* place = start + vocabulary;
  if (Quant::kTrain) {
    config.prob_bits = place[1];
    config.backoff_bits = place[2];
    if (std::max(config.prob_bits, config.backoff_bits) > kMostQuantBits) {
      return std::string(kDamaged) + "its probabilities claim more than 25 bits";
    }
  }
  const uint64_t unigrams = vocabulary + Quant::Size(static_cast<uint8_t>(counts.size()), config);
  const uint64_t middles = unigrams + trie::Unigram::Size(counts[0]);
  if (middles + 2 > room) return {};
  config.pointer_bhiksha_bits = start[middles + 1];
  if (vocabulary + trie::TrieSearch<Quant, Bhiksha>::Size(counts, config) > room) return {};
  uint64_t before = 0;
  for (uint64_t word = 0; word <= counts[0]; ++word) {
    const auto unigram = read<trie::UnigramValue>(start + unigrams + word * sizeof(trie::UnigramValue));
    if (unigram.next < before) return bad_pointers(1);
    before = unigram.next;
  }
  if (before > counts[1]) return bad_pointers(1);
  place = start + middles;
  for (size_t order = 2; order < counts.size(); ++order) {
    const uint64_t entries = counts[order - 1], next = counts[order];
    const uint8_t bits = Quant::MiddleBits(config);
    if (!middle_is_sound<Bhiksha>(place, bits, entries, counts[0], next, config)) return bad_pointers(order);
    place += trie::BitPackedMiddle<Bhiksha>::Size(bits, entries, counts[0], next, config);
  }
  return {};
}

}  // namespace

std::string fault_inside(const std::string& path, const KenlmBinary& binary) {
  const util::scoped_fd file(util::OpenReadOrThrow(path.c_str()));
  util::scoped_memory mapped;
  util::MapRead(util::LAZY, file.get(), 0, util::CheckOverflow(binary.bytes), mapped);
  const uint8_t* const start = reinterpret_cast<const uint8_t*>(mapped.get()) + binary.header;
  Config config;
  config.probing_multiplier = binary.multiplier;
  switch (binary.type) {
    case PROBING:
      return fault_of_probing<BackoffValue>(start, binary, config);
    case REST_PROBING:
      return fault_of_probing<RestValue>(start, binary, config);
    case TRIE:
      return fault_of_trie<DontQuantize, trie::DontBhiksha>(start, binary, config);
    case QUANT_TRIE:
      return fault_of_trie<SeparatelyQuantize, trie::DontBhiksha>(start, binary, config);
    case ARRAY_TRIE:
      return fault_of_trie<DontQuantize, trie::ArrayBhiksha>(start, binary, config);
    default:
      return fault_of_trie<SeparatelyQuantize, trie::ArrayBhiksha>(start, binary, config);
  }
}

}  // namespace asr
