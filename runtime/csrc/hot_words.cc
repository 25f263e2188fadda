#include "hot_words.h"

#include <algorithm>
#include <cmath>

#include "errors.h"

namespace asr {

HotWords::HotWords(const Alphabet& alphabet, const std::vector<std::pair<std::string, double>>& phrases) : nodes_(1) {
  for (const auto& [phrase, boost] : phrases) add(alphabet, phrase, boost);
}

uint32_t HotWords::spell(uint32_t place, uint8_t code) const {
  if (place == kNone) return kNone;
  for (const auto& [letter, node] : nodes_[place].children) {
    if (letter == code) return node;
  }
  return kNone;
}

uint32_t HotWords::child(uint32_t place, uint8_t code) {
  const uint32_t found = spell(place, code);
  if (found != kNone) return found;
  const auto added = static_cast<uint32_t>(nodes_.size());
  nodes_[place].children.emplace_back(code, added);
  nodes_.emplace_back();
  return added;
}

void HotWords::add(const Alphabet& alphabet, const std::string& phrase, double boost) {
  if (!std::isfinite(boost)) throw DecoderError("the boost of the hot word '" + phrase + "' is not a finite number");
  std::vector<uint32_t> path;
  uint32_t place = kStart;
  for (size_t begin = 0; begin < phrase.size();) {
    const size_t end = std::min(phrase.find(' ', begin), phrase.size());
    std::string codes;
    if (!alphabet.encode(std::string_view(phrase).substr(begin, end - begin), &codes)) {
      throw DecoderError("the hot word '" + phrase + "' cannot be spelled with the tokens");
    }
    if (!codes.empty() && !path.empty()) {
      if (nodes_[place].next_word == kStart) {
        nodes_[place].next_word = static_cast<uint32_t>(nodes_.size());
        nodes_.emplace_back();
      }
      path.push_back(place = nodes_[place].next_word);
    }
    for (const char code : codes) path.push_back(place = child(place, static_cast<uint8_t>(code)));
    begin = end + 1;
  }
  if (path.empty()) throw DecoderError("got an empty hot word; wanted a word or phrase");
  nodes_[place].ends = true;
  nodes_[place].boost = boost;
  for (size_t i = 0; i < path.size(); ++i) {
    const double part = boost * static_cast<double>(i + 1) / static_cast<double>(path.size());
    nodes_[path[i]].held = std::max(nodes_[path[i]].held, part);
  }
}

}  // namespace asr
