// The tokens of an acoustic model, as the search sees them: letters to spell and places where words begin.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace asr {

// A token is spelled in codes below 32, so that the children of a lexicon node fit in one 32-bit mask. Alphabets of up
// to 32 characters take one code a character; larger ones take two or three. Where words are pronounced, not spelled, a
// token is a unit of its own, and what is said here of characters holds of tokens.
struct Token {
  bool starts_word = false;  // closes the word before it
  uint32_t first_code = 0;   // into Alphabet::codes()
  uint32_t code_count = 0;   // 0: the space (or a bare word boundary)
  std::string text;          // without the mark of a word boundary
};

class Alphabet {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  // tokens: one string per output of the model. Word boundaries are, in this order: tokens that begin with "▁"
  // (SentencePiece), tokens without a leading "##" (WordPiece), the token " ", the token "|". blank: -1 is the last.
  // pronounced: words are sequences of whole tokens, and only " " or "|" is a boundary, which there must be.
  Alphabet(const std::vector<std::string>& tokens, int blank, bool pronounced);

  size_t size() const { return tokens_.size(); }
  uint32_t blank() const { return blank_; }
  uint32_t space() const { return space_; }  // the token that is nothing but a word boundary, or kNone
  bool has_words() const { return has_words_; }
  // Whether a text may be spelled in several ways: by tokens of several letters, or with and without a mark in front.
  bool spells_twice() const;
  const Token& token(size_t index) const { return tokens_[index]; }
  const uint8_t* codes(const Token& token) const { return codes_.data() + token.first_code; }

  // Appends the codes of a word; false when it has a character that no token has.
  bool encode(std::string_view word, std::string* codes) const;
  // The first character of a word that no token has; empty where it can be spelled.
  std::string_view unspellable(std::string_view word) const;
  // Appends the codes of a whole token of a pronounced word; false when there is no such token.
  bool encode_token(std::string_view token, std::string* codes) const { return append_codes(token, codes); }

 private:
  void read_pieces(const std::vector<std::string>& tokens, bool pronounced);
  void assign_codes(bool pronounced);
  bool append_codes(std::string_view unit, std::string* codes) const;
  void find_blank(const std::vector<std::string>& tokens, int blank);

  std::vector<Token> tokens_;
  std::vector<uint8_t> codes_;
  std::unordered_map<std::string, uint32_t> units_;  // characters, or tokens
  std::array<uint8_t, 256> ascii_codes_;  // the code of a one-byte character that takes one code; otherwise 0xFF
  uint32_t codes_per_unit_ = 1;
  uint32_t blank_ = 0;
  uint32_t space_ = kNone;
  bool has_words_ = false;
};

// Length in bytes of the UTF-8 character at the start of text (1 for a stray byte).
size_t utf8_length(std::string_view text);

}  // namespace asr
