// Text in words: what stands between white space.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace asr {

template <typename Visit>
void each_of(std::string_view words, Visit visit) {
  constexpr std::string_view kSpaces = " \t\r\n\v\f";
  while (true) {
    words.remove_prefix(std::min(words.find_first_not_of(kSpaces), words.size()));
    if (words.empty()) return;
    const size_t end = std::min(words.find_first_of(kSpaces), words.size());
    visit(words.substr(0, end));
    words.remove_prefix(end);
  }
}

// The word in small or in capital letters, of ASCII.
inline std::string in_letters(std::string_view word, bool capital) {
  std::string changed(word);
  for (char& c : changed) {
    if (capital ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z') c ^= 0x20;
  }
  return changed;
}

}  // namespace asr
