// The one kind of error that input can cause; bindings turn it into asr_runtime.errors.DecoderError.
#pragma once

#include <stdexcept>
#include <string>

namespace asr {

class DecoderError : public std::runtime_error {
 public:
  explicit DecoderError(const std::string& sentence) : std::runtime_error(sentence) {}
};

}  // namespace asr
