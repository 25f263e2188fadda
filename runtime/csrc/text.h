// Text in words: what stands between white space.
#pragma once

#include <algorithm>
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

}  // namespace asr
