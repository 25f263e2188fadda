#include "pronunciations.h"

#include <algorithm>

#include "errors.h"
#include "text.h"

namespace asr {
namespace {

[[noreturn]] void refuse(size_t line, const std::string& reason) {
  throw DecoderError("line " + std::to_string(line) + " of the lexicon " + reason);
}

}  // namespace

Pronunciations::Pronunciations(std::string_view lexicon, const Alphabet& alphabet) {
  for (size_t number = 1; !lexicon.empty(); ++number) {
    const size_t end = std::min(lexicon.find('\n'), lexicon.size());
    read_line(lexicon.substr(0, end), number, alphabet);
    lexicon.remove_prefix(std::min(end + 1, lexicon.size()));
  }
  find_homophones();
}

void Pronunciations::read_line(std::string_view line, size_t number, const Alphabet& alphabet) {
  const size_t tab = line.find('\t');
  std::string word;
  size_t parts = 0;
  each_of(line.substr(0, tab), [&](std::string_view part) {
    word = part;
    ++parts;
  });
  if (tab == std::string_view::npos && parts == 0) return;
  if (tab == std::string_view::npos) {
    refuse(number, "has no tab; wanted a word, a tab and its tokens on every line, or on none");
  }
  if (parts != 1) refuse(number, "has " + std::to_string(parts) + " words before its tab, wanted one");
  const size_t before = codes_.size();
  each_of(line.substr(tab), [&](std::string_view token) {
    if (!alphabet.encode_token(token, &codes_)) {
      refuse(number, "has the token '" + std::string(token) + "' for '" + word + "', which is none of the model's");
    }
  });
  if (codes_.size() == before) refuse(number, "has no tokens for '" + word + "'; wanted how it is said");
  const auto added = static_cast<uint32_t>(lines_.size());
  const auto [found, is_new] = numbers_.emplace(word, static_cast<uint32_t>(words_.size()));
  if (is_new) {
    words_.push_back({word, added, added});
  } else {
    Word& known = words_[found->second];
    lines_[known.last_line].next = added;
    known.last_line = added;
  }
  lines_.push_back(
      {static_cast<uint32_t>(before), static_cast<uint32_t>(codes_.size() - before), found->second, kNone});
}

void Pronunciations::find_homophones() {
  std::vector<uint32_t> order(lines_.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
    const int codes = codes_of(lines_[a]).compare(codes_of(lines_[b]));
    return codes != 0 ? codes < 0 : lines_[a].word < lines_[b].word;
  });
  for (const uint32_t i : order) {
    const Line& line = lines_[i];
    if (sounds_.empty() || codes_of(lines_[sounds_.back().line]) != codes_of(line)) {
      sounds_.push_back({i, static_cast<uint32_t>(homophones_.size()), 0});
    } else if (homophones_.back() == line.word) {
      continue;  // the same line again
    }
    homophones_.push_back(line.word);
    ++sounds_.back().word_count;
  }
}

uint32_t Pronunciations::find(std::string_view word) const {
  const auto found = numbers_.find(std::string(word));
  return found == numbers_.end() ? kNone : found->second;
}

std::vector<std::string_view> Pronunciations::of(uint32_t word) const {
  std::vector<std::string_view> all;
  for (uint32_t line = words_[word].first_line; line != kNone; line = lines_[line].next) {
    if (std::find(all.begin(), all.end(), codes_of(lines_[line])) == all.end()) all.push_back(codes_of(lines_[line]));
  }
  return all;
}

}  // namespace asr
