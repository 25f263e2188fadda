#include "scorer_package.h"

#include <cmath>
#include <cstring>
#include <string_view>

#include "errors.h"
#include "util/exception.hh"
#include "util/file.hh"
#include "util/mmap.hh"

namespace asr {
namespace {

// Layout, little-endian: int 'TRIE', int version, byte is_utf8, double alpha, double beta, then an OpenFST ConstFst:
// int magic, string "const", string "standard", int version, int flags, u64 properties, i64 start, states, arcs; the
// tables of states and of arcs each begin at a multiple of 16 in the file when the version is 1 ("aligned").
constexpr char kTrie[] = "EIRT";
constexpr std::string_view kFst{"\xD6\xFD\xB2\x7E\x05\0\0\0const\x08\0\0\0standard", 25};
constexpr std::string_view kKenLm = "mmap lm http://kheafield.com/code";
constexpr size_t kHasWords = 100;  // offset of KenLM's flag
constexpr int32_t kVersion = 6;
constexpr size_t kHeaderBytes = 25, kFstHeaderBytes = 40, kStateBytes = 20, kArcBytes = 16, kAlignment = 16;
constexpr double kMostLetters = 1 << 28;  // of all words together; the English of DeepSpeech has 4 million

[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
  throw DecoderError("cannot use '" + path + "' as a scorer package: " + reason);
}

[[noreturn]] void refuse_alphabet(const std::string& path, const std::string& reason) {
  refuse(path,
         reason + ", so it was made for another alphabet; give it with the tokens (and their order) it was made for");
}

template <typename T>
T read(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

class File {
 public:
  explicit File(const std::string& path) {
    try {
      const util::scoped_fd fd(util::OpenReadOrThrow(path.c_str()));
      const uint64_t size = util::SizeOrThrow(fd.get());
      if (size > 0) util::MapRead(util::LAZY, fd.get(), 0, size, memory_);
    } catch (const util::Exception&) {
      throw DecoderError("cannot read '" + path + "': no such file, or no right to read it");
    }
  }
  std::string_view bytes() const { return {memory_.begin(), memory_.size()}; }

 private:
  util::scoped_memory memory_;
};

struct State {
  bool final;
  uint32_t first, arcs;
};

struct Arc {
  int32_t label;
  uint32_t target;
};

// An acyclic automaton of label sequences, every index checked.
class Automaton {
 public:
  Automaton(const std::string& path, std::string_view file, size_t offset);

  uint32_t start() const { return start_; }
  uint32_t size() const { return size_; }
  State state(uint32_t index) const;
  Arc arc(uint32_t index) const;

 private:
  std::string_view table(std::string_view file, size_t* offset, uint64_t count, size_t width, bool aligned) const;

  const std::string& path_;
  std::string_view states_, arcs_;
  uint32_t start_ = 0, size_ = 0, arc_count_ = 0;
};

Automaton::Automaton(const std::string& path, std::string_view file, size_t offset) : path_(path) {
  offset += kFst.size();
  if (file.size() - offset < kFstHeaderBytes) refuse(path, "it ends inside the header of its word list");
  const auto version = read<int32_t>(file, offset);
  const auto flags = read<int32_t>(file, offset + 4);
  const auto start = read<uint64_t>(file, offset + 16);
  const auto states = read<uint64_t>(file, offset + 24);
  const auto arcs = read<uint64_t>(file, offset + 32);
  if (version < 1 || version > 2)
    refuse(path, "its word list has version " + std::to_string(version) + ", wanted 1 or 2");
  if (flags & 3) refuse(path, "its word list carries symbol tables, which no packer writes");
  const bool aligned = version == 1 || (flags & 4);
  offset += kFstHeaderBytes;
  states_ = table(file, &offset, states, kStateBytes, aligned);
  arcs_ = table(file, &offset, arcs, kArcBytes, aligned);
  if (start >= states) refuse(path, "its word list is empty or damaged");
  start_ = static_cast<uint32_t>(start);
  size_ = static_cast<uint32_t>(states);
  arc_count_ = static_cast<uint32_t>(arcs);
}

std::string_view Automaton::table(std::string_view file, size_t* offset, uint64_t count, size_t width,
                                  bool aligned) const {
  if (aligned) *offset = (*offset + kAlignment - 1) / kAlignment * kAlignment;
  if (*offset > file.size() || count > (file.size() - *offset) / width || count > UINT32_MAX)
    refuse(path_, "its word list is longer than the file; it is cut short or damaged");
  const std::string_view bytes = file.substr(*offset, count * width);
  *offset += bytes.size();
  return bytes;
}

State Automaton::state(uint32_t index) const {
  const size_t at = size_t{index} * kStateBytes;
  const State state{!std::isinf(read<float>(states_, at)), read<uint32_t>(states_, at + 4),
                    read<uint32_t>(states_, at + 8)};
  if (uint64_t{state.first} + state.arcs > arc_count_) refuse(path_, "its word list is damaged");
  return state;
}

Arc Automaton::arc(uint32_t index) const {
  const size_t at = size_t{index} * kArcBytes;
  const Arc arc{read<int32_t>(arcs_, at), read<uint32_t>(arcs_, at + 12)};
  if (arc.target >= size_) refuse(path_, "its word list is damaged");
  return arc;
}

struct Step {
  uint32_t state;
  uint32_t taken;  // arcs followed so far
};

// What can be spelled from a state; a small file may spell more than any memory holds, so it is counted first.
struct Amount {
  double words = 0.0, letters = 0.0;
  enum { kNew, kOpen, kDone } visit = kNew;
};

class WordReader {
 public:
  WordReader(const std::string& path, const Automaton& automaton, const std::vector<std::string>& tokens,
             const Alphabet& alphabet, const LanguageModel& lm)
      : path_(path), automaton_(automaton), lm_(lm), amounts_(automaton.size()) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i == alphabet.space()) space_ = static_cast<int32_t>(spellings_.size()) + 1;
      if (i != alphabet.blank()) spellings_.push_back(tokens[i]);
    }
    if (space_ == 0) refuse_alphabet(path, "its words end in a space, and no token is a space");
  }

  std::string words() {
    count();
    const Amount& all = amounts_[automaton_.start()];
    if (all.words == 0.0) refuse(path_, "its word list is empty");
    if (all.letters > kMostLetters) refuse(path_, "its word list is damaged: it spells words without end");
    spell();
    if (known_ * 2 < all.words) {
      refuse_alphabet(path_, "its own language model knows only " + std::to_string(known_) + " of its " +
                                 std::to_string(static_cast<size_t>(all.words)) + " words");
    }
    return std::move(words_);
  }

 private:
  // Depth first without recursion: the depth is the file's choice.
  void count() {
    std::vector<Step> path{{automaton_.start(), 0}};
    amounts_[automaton_.start()].visit = Amount::kOpen;
    while (!path.empty()) {
      Step& step = path.back();
      const State state = automaton_.state(step.state);
      if (step.taken == state.arcs) {
        close(step.state, state);
        path.pop_back();
        continue;
      }
      const uint32_t target = automaton_.arc(state.first + step.taken++).target;
      Amount& next = amounts_[target];
      if (next.visit == Amount::kOpen) refuse(path_, "its word list is damaged: it goes in a circle");
      if (next.visit == Amount::kNew) path.push_back({target, 0});
      if (next.visit == Amount::kNew) next.visit = Amount::kOpen;
    }
  }

  void close(uint32_t index, const State& state) {
    Amount& amount = amounts_[index];
    amount.visit = Amount::kDone;
    amount.words = state.final ? 1.0 : 0.0;
    for (uint32_t i = 0; i < state.arcs; ++i) {
      const Amount& next = amounts_[automaton_.arc(state.first + i).target];
      amount.words += next.words;
      amount.letters += next.letters + next.words;
    }
  }

  void spell() {
    std::vector<Step> path{{automaton_.start(), 0}};
    std::vector<int32_t> labels;
    while (!path.empty()) {
      Step& step = path.back();
      const State state = automaton_.state(step.state);
      if (step.taken == 0 && state.final) add(labels);
      if (step.taken == state.arcs) {
        path.pop_back();
        if (!labels.empty()) labels.pop_back();
        continue;
      }
      const Arc arc = automaton_.arc(state.first + step.taken++);
      if (amounts_[arc.target].words == 0.0) continue;
      labels.push_back(arc.label);
      path.push_back({arc.target, 0});
    }
  }

  void add(const std::vector<int32_t>& labels) {
    if (labels.size() < 2 || labels.back() != space_) refuse_alphabet(path_, "its words do not end in the space");
    std::string word;
    for (size_t i = 0; i + 1 < labels.size(); ++i) {
      const auto label = static_cast<uint32_t>(labels[i]);
      if (label < 1 || label > spellings_.size()) {
        refuse_alphabet(
            path_, "its words use character " + std::to_string(label) + " of " + std::to_string(spellings_.size()));
      }
      if (labels[i] == space_) refuse_alphabet(path_, "its words have spaces inside");
      word += spellings_[label - 1];
    }
    known_ += lm_.index(word) != 0;
    words_ += word += '\n';
  }

  const std::string& path_;
  const Automaton& automaton_;
  const LanguageModel& lm_;
  std::vector<Amount> amounts_;
  std::vector<std::string> spellings_;
  std::string words_;
  int32_t space_ = 0;
  size_t known_ = 0;
};

// A package holds a KenLM binary without its words; this spares other language models the search below.
bool may_be_package(std::string_view file) {
  return file.size() > kHasWords && file.compare(0, kKenLm.size(), kKenLm) == 0 && file[kHasWords] == 0;
}

// Where the package's own header begins; npos for another kind of file. It lies near the end: searched from there.
size_t find_header(std::string_view file) {
  if (!may_be_package(file)) return std::string_view::npos;
  const size_t fst = file.rfind(kFst);
  if (fst == std::string_view::npos || fst < kHeaderBytes) return std::string_view::npos;
  const size_t header = fst - kHeaderBytes;
  return file.compare(header, 4, kTrie) == 0 ? header : std::string_view::npos;
}

ScorerWeights read_header(const std::string& path, std::string_view file, size_t header) {
  const auto version = read<int32_t>(file, header + 4);
  const auto utf8 = read<uint8_t>(file, header + 8);
  const ScorerWeights weights{read<double>(file, header + 9), read<double>(file, header + 17)};
  if (version != kVersion)
    refuse(path, "its version is " + std::to_string(version) + ", wanted " + std::to_string(kVersion));
  if (utf8 == 1)
    refuse(path, "it is for models whose outputs are bytes (UTF-8 mode); wanted one made with an alphabet");
  if (utf8 > 1 || !(weights.alpha >= 0 && std::isfinite(weights.alpha)) || !std::isfinite(weights.beta))
    refuse(path, "its header is damaged");
  return weights;
}

}  // namespace

std::optional<ScorerWeights> scorer_weights(const std::string& path) {
  const File file(path);
  const size_t header = find_header(file.bytes());
  if (header == std::string_view::npos) return std::nullopt;
  return read_header(path, file.bytes(), header);
}

std::string scorer_words(const std::string& path, const std::vector<std::string>& tokens, const Alphabet& alphabet,
                         const LanguageModel& lm) {
  const File file(path);
  const size_t header = find_header(file.bytes());
  if (header == std::string_view::npos)
    throw DecoderError("the language model '" + path + "' does not carry its words; give the word list as `lexicon`");
  read_header(path, file.bytes(), header);
  const Automaton automaton(path, file.bytes(), header + kHeaderBytes);
  return WordReader(path, automaton, tokens, alphabet, lm).words();
}

}  // namespace asr
