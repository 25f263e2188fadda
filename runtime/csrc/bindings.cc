// The Python module asr_runtime._decoder; asr_runtime/decoder.py checks arguments and documents them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "decoder.h"
#include "errors.h"
#include "scorer_package.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using LogProbs = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

asr::Emissions view(const LogProbs& array, size_t tokens) {
  if (array.shape(1) != tokens) {
    throw asr::DecoderError("got " + std::to_string(array.shape(1)) + " columns, wanted " + std::to_string(tokens) +
                            ": log-probabilities are [frames, tokens]");
  }
  return {array.data(), array.shape(0)};
}

void check(const asr::Emissions& emissions, size_t tokens, size_t first_frame = 0) {
  const std::string fault = asr::fault_of(emissions, tokens, first_frame);
  if (!fault.empty()) throw asr::DecoderError(fault);
}

using Phrases = std::vector<std::pair<std::string, double>>;

std::shared_ptr<const asr::HotWords> hot_words(const asr::SearchModel& model, const Phrases& phrases) {
  return phrases.empty() ? nullptr : std::make_shared<const asr::HotWords>(model, phrases);
}

std::vector<asr::Result> decode(asr::Decoder& decoder, const LogProbs& array, const Phrases& phrases) {
  const size_t tokens = decoder.model().alphabet.size();
  const asr::Emissions emissions = view(array, tokens);
  const nb::gil_scoped_release release;
  check(emissions, tokens);
  return decoder.decode(emissions, hot_words(decoder.model(), phrases));
}

std::vector<std::vector<asr::Result>> decode_batch(asr::Decoder& decoder, const std::vector<LogProbs>& arrays,
                                                   unsigned threads, const Phrases& phrases) {
  const size_t tokens = decoder.model().alphabet.size();
  std::vector<asr::Emissions> batch;
  for (const LogProbs& array : arrays) batch.push_back(view(array, tokens));
  const nb::gil_scoped_release release;
  for (size_t i = 0; i < batch.size(); ++i) {
    const std::string fault = asr::fault_of(batch[i], tokens);
    if (!fault.empty()) throw asr::DecoderError("item " + std::to_string(i) + ": " + fault);
  }
  return decoder.decode_batch(batch, threads, hot_words(decoder.model(), phrases));
}

// A search and what it reads; frames are counted for error messages.
struct Stream {
  Stream(const asr::Decoder& decoder, const Phrases& phrases) : model(decoder.shared_model()), search(*model) {
    search.reset(hot_words(*model, phrases));
  }

  void feed(const LogProbs& array) {
    const asr::Emissions emissions = view(array, model->alphabet.size());
    const nb::gil_scoped_release release;
    check(emissions, model->alphabet.size(), frames);
    search.feed(emissions.log_probs, emissions.frames);
    frames += emissions.frames;
  }

  std::shared_ptr<const asr::SearchModel> model;
  asr::PrefixBeamSearch search;
  size_t frames = 0;
};

nb::tuple words(const asr::Result& result) {
  nb::list list;
  for (const asr::WordResult& word : result.words) list.append(word);
  return nb::tuple(list);
}

nb::tuple word_state(const asr::WordResult& w) { return nb::make_tuple(w.text, w.start, w.end, w.confidence); }

nb::tuple hypothesis_state(const asr::Result& r) {
  return nb::make_tuple(r.text, r.score, r.acoustic_score, r.lm_score, words(r));
}

template <typename T>
bool same(const T& a, nb::handle other, nb::tuple (*state)(const T&)) {
  return nb::isinstance<T>(other) && state(a).equal(state(nb::cast<const T&>(other)));
}

void bind_results(nb::module_& m) {
  nb::class_<asr::WordResult>(m, "Word", "A word of a hypothesis; start and end are frames, end exclusive.")
      .def(
          "__init__",
          [](asr::WordResult* self, std::string text, uint32_t start, uint32_t end, double confidence) {
            new (self) asr::WordResult{std::move(text), start, end, confidence};
          },
          "text"_a, "start"_a, "end"_a, "confidence"_a)
      .def_ro("text", &asr::WordResult::text)
      .def_ro("start", &asr::WordResult::start)
      .def_ro("end", &asr::WordResult::end)
      .def_ro("confidence", &asr::WordResult::confidence)
      .def("__eq__", [](const asr::WordResult& a, nb::handle b) { return same(a, b, word_state); })
      .def("__hash__", [](const asr::WordResult& a) { return nb::hash(word_state(a)); })
      .def("__reduce__",
           [](nb::handle self) {
             return nb::make_tuple(self.type(), word_state(nb::cast<const asr::WordResult&>(self)));
           })
      .def("__repr__", [](const asr::WordResult& w) {
        return nb::str("Word(text={!r}, start={}, end={}, confidence={:.3f})")
            .format(w.text, w.start, w.end, w.confidence);
      });
  nb::class_<asr::Result>(m, "Hypothesis", "A text with its scores (natural log) and words.")
      .def(
          "__init__",
          [](asr::Result* self, std::string text, double score, double acoustic_score, double lm_score,
             const std::vector<asr::WordResult>& words) {
            new (self) asr::Result{std::move(text), score, acoustic_score, lm_score, words};
          },
          "text"_a, "score"_a, "acoustic_score"_a, "lm_score"_a, "words"_a)
      .def_ro("text", &asr::Result::text)
      .def_ro("score", &asr::Result::score)
      .def_ro("acoustic_score", &asr::Result::acoustic_score)
      .def_ro("lm_score", &asr::Result::lm_score)
      .def_prop_ro("words", words)
      .def("__eq__", [](const asr::Result& a, nb::handle b) { return same(a, b, hypothesis_state); })
      .def("__hash__", [](const asr::Result& a) { return nb::hash(hypothesis_state(a)); })
      .def("__reduce__",
           [](nb::handle self) {
             return nb::make_tuple(self.type(), hypothesis_state(nb::cast<const asr::Result&>(self)));
           })
      .def("__repr__", [](const asr::Result& r) {
        return nb::str("Hypothesis(text={!r}, score={:.4f}, acoustic_score={:.4f}, lm_score={:.4f}, words={!r})")
            .format(r.text, r.score, r.acoustic_score, r.lm_score, words(r));
      });
}

void make_decoder(asr::Decoder* self, const std::vector<std::string>& tokens, int blank,
                  const std::optional<std::string>& language_model, const std::optional<std::string>& lexicon,
                  const asr::Options& options) {
  std::shared_ptr<const asr::SearchModel> model;
  {
    const nb::gil_scoped_release release;
    model = std::make_shared<const asr::SearchModel>(tokens, blank, language_model ? &*language_model : nullptr,
                                                     lexicon ? &*lexicon : nullptr, options);
  }
  new (self) asr::Decoder(std::move(model));
}

std::optional<std::pair<double, double>> read_scorer_weights(const std::string& path) {
  const nb::gil_scoped_release release;
  const auto weights = asr::scorer_weights(path);
  if (!weights) return std::nullopt;
  return std::make_pair(weights->alpha, weights->beta);
}

}  // namespace

NB_MODULE(_decoder, m) {
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const asr::DecoderError& e) {
      // A damaged file may put bytes into the message that are not UTF-8.
      const std::string text = e.what();
      const auto message =
          nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
      PyErr_SetObject(nb::module_::import_("asr_runtime.errors").attr("DecoderError").ptr(), message.ptr());
    }
  });
  bind_results(m);
  nb::class_<asr::Options>(m, "Options")
      .def(nb::init<>())
      .def_rw("beam_size", &asr::Options::beam_size)
      .def_rw("beam_threshold", &asr::Options::beam_threshold)
      .def_rw("token_floor", &asr::Options::token_floor)
      .def_rw("alpha", &asr::Options::alpha)
      .def_rw("beta", &asr::Options::beta)
      .def_rw("unknown_word_penalty", &asr::Options::unknown_word_penalty)
      .def_rw("end_of_sentence", &asr::Options::end_of_sentence)
      .def_rw("look_ahead", &asr::Options::look_ahead)
      .def_rw("repeated_spaces", &asr::Options::repeated_spaces)
      .def_rw("confidence_scale", &asr::Options::confidence_scale)
      .def_rw("confidence_offset", &asr::Options::confidence_offset)
      .def_rw("n_best", &asr::Options::n_best);
  nb::class_<asr::Decoder>(m, "Decoder")
      .def("__init__", make_decoder, "tokens"_a, "blank"_a, "language_model"_a.none(), "lexicon"_a.none(), "options"_a)
      .def(
          "check_hot_words", [](const asr::Decoder& self, const Phrases& phrases) { hot_words(self.model(), phrases); },
          "hot_words"_a)
      .def("decode", decode, "log_probs"_a, "hot_words"_a)
      .def("decode_batch", decode_batch, "log_probs"_a, "threads"_a, "hot_words"_a);
  m.def("scorer_weights", read_scorer_weights, "path"_a);
  nb::class_<Stream>(m, "Stream")
      .def(nb::init<const asr::Decoder&, const Phrases&>(), "decoder"_a, "hot_words"_a)
      .def("feed", &Stream::feed, "log_probs"_a)
      .def("partial", [](const Stream& s) { return s.search.partial(); })
      .def("finish", [](const Stream& s) { return s.search.finish(); });
}
