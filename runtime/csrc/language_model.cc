#include "language_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <vector>

#include "errors.h"
#include "language_model_contents.h"
#include "lm/binary_format.hh"
#include "lm/enumerate_vocab.hh"
#include "lm/model.hh"

namespace asr {
namespace {

constexpr float kLn10 = 2.302585092994046f;
constexpr float kLeast = -1e30f;       // so that no weight makes a NaN of it
constexpr uint64_t kSanityBytes = 88;  // KenLM's magic line and test values, padded to 8 bytes
constexpr char kMagic[] = "mmap lm http://kheafield.com/code";

[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
  throw DecoderError("cannot use '" + path + "' as a language model: " + reason +
                     "; wanted an ARPA file or a KenLM binary of format version 5");
}

struct Header {
  bool binary = false;
  bool has_words = false;
};

// Every n-gram takes at least this many bits in any KenLM binary: enough to refuse counts that cannot be true.
constexpr uint64_t kMinimumBitsPerNgram = 8;

void check_counts(const std::string& path, const std::vector<uint64_t>& counts, uint64_t bytes, uint64_t minimum_bits) {
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > bytes * 8 / minimum_bits) {
      refuse(path, "its header claims " + std::to_string(counts[i]) + " " + std::to_string(i + 1) +
                       "-grams, which do not fit in its " + std::to_string(bytes) + " bytes");
    }
  }
}

// The word table lies behind the header; its own count must agree, since lookups trust it.
void check_vocabulary(const std::string& path, std::ifstream& file, int type, uint64_t header, uint64_t words) {
  uint64_t first = 0;
  file.seekg(static_cast<std::streamoff>(header));
  file.read(reinterpret_cast<char*>(&first), sizeof(first));
  const bool probing = type == lm::ngram::PROBING || type == lm::ngram::REST_PROBING;
  const uint64_t claimed = probing ? first >> 32 : first + 1;
  if (!file || claimed > words + 1) {
    refuse(path, "its word table claims " + std::to_string(claimed) + " words, its header " + std::to_string(words));
  }
}

Header check_binary(const std::string& path, std::ifstream& file, uint64_t bytes) {
  lm::ngram::FixedWidthParameters fixed;
  file.seekg(kSanityBytes);
  file.read(reinterpret_cast<char*>(&fixed), sizeof(fixed));
  if (!file) refuse(path, "it ends inside its header");
  unsigned char has_words = 0;
  std::memcpy(&has_words, &fixed.has_vocabulary, 1);
  int type = 0;
  std::memcpy(&type, &fixed.model_type, sizeof(type));
  if (fixed.order < 2 || fixed.order > KENLM_MAX_ORDER) {
    refuse(path, "its order is " + std::to_string(fixed.order) + ", wanted 2 to " + std::to_string(KENLM_MAX_ORDER));
  }
  if (type < 0 || type > lm::ngram::QUANT_ARRAY_TRIE) refuse(path, "its type " + std::to_string(type) + " is unknown");
  if (has_words > 1) refuse(path, "its header is damaged");
  if (!(fixed.probing_multiplier >= 1.0f && fixed.probing_multiplier <= 1000.0f)) refuse(path, "its header is damaged");
  std::vector<uint64_t> counts(fixed.order);
  file.read(reinterpret_cast<char*>(counts.data()), static_cast<std::streamsize>(counts.size() * sizeof(uint64_t)));
  if (!file) refuse(path, "it ends inside its header");
  check_counts(path, counts, bytes, kMinimumBitsPerNgram);
  if (counts[0] == 0) refuse(path, "it has no words");
  const uint64_t header = (kSanityBytes + sizeof(fixed) + counts.size() * sizeof(uint64_t) + 7) / 8 * 8;
  check_vocabulary(path, file, type, header, counts[0]);
  const std::string fault = fault_inside(path, {type, header, bytes, fixed.probing_multiplier, std::move(counts)});
  if (!fault.empty()) refuse(path, fault);
  return {true, has_words == 1};
}

// An ARPA file says its counts first; KenLM allocates for them before it reads a line.
Header check_arpa(const std::string& path, std::ifstream& file, uint64_t bytes) {
  std::string line;
  while (std::getline(file, line) && line.find_first_not_of(" \t\r") == std::string::npos) continue;
  if (line.compare(0, 6, "\\data\\") != 0) refuse(path, "it begins neither as an ARPA file nor as a KenLM binary");
  std::vector<uint64_t> counts;
  while (std::getline(file, line) && line.compare(0, 6, "ngram ") == 0) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos) refuse(path, "its line '" + line.substr(0, 60) + "' has no count");
    counts.push_back(std::strtoull(line.c_str() + equals + 1, nullptr, 10));
  }
  if (counts.size() < 2 || counts.size() > KENLM_MAX_ORDER) {
    refuse(path, "its order is " + std::to_string(counts.size()) + ", wanted 2 to " + std::to_string(KENLM_MAX_ORDER));
  }
  check_counts(path, counts, bytes, 4 * 8);  // a line is at least a number, a tab, a letter, a line end
  return {false, true};
}

Header check_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw DecoderError("cannot read the language model '" + path + "': no such file, or no right to read it");
  const auto end = static_cast<std::streamoff>(file.tellg());
  if (end <= 0 || end == std::numeric_limits<std::streamoff>::max()) refuse(path, "it is empty or a folder");
  const auto bytes = static_cast<uint64_t>(end);
  char head[sizeof(kMagic) - 1] = {};
  file.seekg(0);
  file.read(head, sizeof(head));
  const bool binary = file.gcount() == sizeof(head) && std::memcmp(head, kMagic, sizeof(head)) == 0;
  file.clear();
  file.seekg(0);
  return binary ? check_binary(path, file, bytes) : check_arpa(path, file, bytes);
}

// KenLM's messages name its source lines first; what a user needs comes after "because" or on the last line.
std::string reason_of(const std::exception& error) {
  std::string text = error.what();
  const size_t because = text.find("because `");
  const size_t stop = because == std::string::npos ? std::string::npos : text.find("'.", because);
  if (stop != std::string::npos && stop + 2 < text.size()) text = text.substr(stop + 2);
  const size_t threw = text.find(" threw ");
  if (threw != std::string::npos) {
    const size_t dot = text.find(". ", threw);
    text = text.substr(dot == std::string::npos ? threw + 7 : dot + 2);
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  const size_t first = text.find_first_not_of(' ');
  const size_t last = text.find_last_not_of(" .");
  return first == std::string::npos || last == std::string::npos ? "KenLM gave no reason"
                                                                 : text.substr(first, last - first + 1);
}

class WordCollector : public lm::EnumerateVocab {
 public:
  WordCollector(std::string* strings, std::vector<uint32_t>* offsets) : strings_(strings), offsets_(offsets) {}
  void Add(lm::WordIndex, const StringPiece& word) override {
    offsets_->push_back(static_cast<uint32_t>(strings_->size()));
    strings_->append(word.data(), word.size());
  }

 private:
  std::string* strings_;
  std::vector<uint32_t>* offsets_;
};

}  // namespace

LanguageModel::LanguageModel(const std::string& path, bool keep_words) {
  const Header header = check_file(path);
  WordCollector collector(&strings_, &offsets_);
  lm::ngram::Config config;
  config.show_progress = false;
  config.messages = nullptr;
  config.load_method = util::LAZY;
  config.unknown_missing = lm::SILENT;
  config.sentence_marker_missing = lm::SILENT;
  config.arpa_complain = lm::ngram::Config::NONE;
  if (keep_words && header.has_words) config.enumerate_vocab = &collector;
  try {
    model_.reset(lm::ngram::LoadVirtual(path.c_str(), config));
  } catch (const std::exception& error) {
    refuse(path, reason_of(error));
  }
  if (!offsets_.empty()) offsets_.push_back(static_cast<uint32_t>(strings_.size()));
}

LanguageModel::State LanguageModel::begin() const {
  State state;
  model_->BeginSentenceWrite(&state);
  return state;
}

LanguageModel::State LanguageModel::no_context() const {
  State state;
  model_->NullContextWrite(&state);
  return state;
}

uint32_t LanguageModel::index(std::string_view word) const {
  return model_->BaseVocabulary().Index(StringPiece(word.data(), word.size()));
}

float LanguageModel::score(const State& from, uint32_t word, State* to) const {
  const float log_probability = model_->BaseScore(&from, word, to);
  // A damaged file may say anything, NaN, too; and quantised backoffs may lift a probability above 1.
  return log_probability < 0.0f ? kLn10 * std::max(log_probability, kLeast) : 0.0f;
}

void LanguageModel::each_word(const std::function<void(std::string_view, uint32_t)>& visit) const {
  for (uint32_t i = 1; i + 1 < offsets_.size(); ++i) {
    const std::string_view word(strings_.data() + offsets_[i], offsets_[i + 1] - offsets_[i]);
    if (word != "<s>" && word != "</s>") visit(word, i);
  }
}

}  // namespace asr
