#include "alphabet.h"

#include <algorithm>

#include "errors.h"

namespace asr {
namespace {

constexpr std::string_view kBoundary = "\xE2\x96\x81";  // U+2581, SentencePiece's mark
constexpr std::string_view kContinuation = "##";        // WordPiece's mark

bool starts_with(std::string_view text, std::string_view head) { return text.substr(0, head.size()) == head; }

template <typename Predicate>
bool any_token(const std::vector<std::string>& tokens, Predicate predicate) {
  return std::any_of(tokens.begin(), tokens.end(), predicate);
}

}  // namespace

size_t utf8_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = lead < 0x80 ? 1 : lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return std::min(length, text.size());
}

Alphabet::Alphabet(const std::vector<std::string>& tokens, int blank, bool pronounced) {
  ascii_codes_.fill(0xFF);
  find_blank(tokens, blank);
  read_pieces(tokens, pronounced);
  assign_codes(pronounced);
}

void Alphabet::find_blank(const std::vector<std::string>& tokens, int blank) {
  const int count = static_cast<int>(tokens.size());
  if (count < 2) {
    throw DecoderError("got " + std::to_string(count) + " tokens, wanted at least a blank and one more");
  }
  const auto empties = std::count(tokens.begin(), tokens.end(), "");
  if (empties == 1) {
    blank_ = static_cast<uint32_t>(std::find(tokens.begin(), tokens.end(), "") - tokens.begin());
    return;
  }
  if (empties > 1) {
    throw DecoderError("got " + std::to_string(empties) + " empty tokens, wanted one, the blank; name the others");
  }
  if (blank < -count || blank >= count) {
    throw DecoderError("got blank " + std::to_string(blank) + ", wanted an index into the " + std::to_string(count) +
                       " tokens");
  }
  blank_ = static_cast<uint32_t>(blank < 0 ? blank + count : blank);
}

void Alphabet::read_pieces(const std::vector<std::string>& tokens, bool pronounced) {
  const bool pieces = !pronounced && any_token(tokens, [](const std::string& t) { return starts_with(t, kBoundary); });
  const bool continued =
      !pronounced && !pieces && any_token(tokens, [](const std::string& t) { return starts_with(t, kContinuation); });
  const bool spaced = std::count(tokens.begin(), tokens.end(), " ") > 0;
  const std::string space = spaced ? " " : pieces || continued ? std::string() : "|";
  for (size_t i = 0; i < tokens.size(); ++i) {
    Token token;
    token.text = i == blank_ ? std::string() : tokens[i];
    if (i != blank_ && !space.empty() && token.text == space) {
      token.starts_word = true;
      token.text.clear();
    } else if (pieces && starts_with(token.text, kBoundary)) {
      token.starts_word = true;
      token.text.erase(0, kBoundary.size());
    } else if (continued && i != blank_) {
      token.starts_word = !starts_with(token.text, kContinuation);
      if (!token.starts_word) token.text.erase(0, kContinuation.size());
    }
    has_words_ = has_words_ || token.starts_word;
    if (token.starts_word && token.text.empty()) {
      if (space_ != kNone)
        throw DecoderError("got two tokens for the space: '" + tokens[space_] + "' and '" + tokens[i] + "'");
      space_ = static_cast<uint32_t>(i);
    }
    tokens_.push_back(std::move(token));
  }
  if (pronounced && space_ == kNone) {
    throw DecoderError(
        "the tokens have no word boundary, but the lexicon has pronunciations; wanted a token ' ' or '|'");
  }
}

void Alphabet::assign_codes(bool pronounced) {
  std::vector<std::string> order;
  for (const Token& token : tokens_) {
    for (std::string_view rest = token.text; !rest.empty();) {
      const std::string unit(rest.substr(0, pronounced ? rest.size() : utf8_length(rest)));
      if (units_.emplace(unit, units_.size()).second) order.push_back(unit);
      rest.remove_prefix(unit.size());
    }
  }
  for (size_t reach = 32; reach < order.size(); reach *= 32) ++codes_per_unit_;
  for (size_t i = 0; i < order.size() && codes_per_unit_ == 1; ++i) {
    if (order[i].size() == 1) ascii_codes_[static_cast<unsigned char>(order[i][0])] = static_cast<uint8_t>(i);
  }
  for (Token& token : tokens_) {
    std::string codes;
    if (pronounced) {
      append_codes(token.text, &codes);
    } else {
      encode(token.text, &codes);
    }
    token.first_code = static_cast<uint32_t>(codes_.size());
    token.code_count = static_cast<uint32_t>(codes.size());
    codes_.insert(codes_.end(), codes.begin(), codes.end());
  }
}

bool Alphabet::spells_twice() const {
  return std::any_of(tokens_.begin(), tokens_.end(), [](const Token& token) {
    return !token.text.empty() && (token.starts_word || utf8_length(token.text) < token.text.size());
  });
}

bool Alphabet::encode(std::string_view word, std::string* codes) const {
  while (!word.empty()) {
    const uint8_t ascii = ascii_codes_[static_cast<unsigned char>(word[0])];
    if (ascii < 32) {
      codes->push_back(static_cast<char>(ascii));
      word.remove_prefix(1);
      continue;
    }
    const size_t length = utf8_length(word);
    if (!append_codes(word.substr(0, length), codes)) return false;
    word.remove_prefix(length);
  }
  return true;
}

std::string_view Alphabet::unspellable(std::string_view word) const {
  std::string codes;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, utf8_length(word));
    if (!append_codes(character, &codes)) return character;
    word.remove_prefix(character.size());
  }
  return word;
}

bool Alphabet::append_codes(std::string_view unit, std::string* codes) const {
  const auto found = units_.find(std::string(unit));
  if (found == units_.end()) return false;
  uint32_t rest = found->second;
  for (uint32_t i = 0; i < codes_per_unit_; ++i, rest /= 32) codes->push_back(static_cast<char>(rest % 32));
  return true;
}

}  // namespace asr
