"""CTC prefix beam search with a KenLM language model: log-probabilities in, texts with scores and word times out.

What is maximised, over texts: ``ln P_CTC(text) + alpha * ln P_LM(text) + beta * words`` and the terms of unknown and
hot words; P_CTC is summed over all alignments. ``docs/decoder.md`` says how the search works.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_runtime import _decoder
from asr_runtime._decoder import Hypothesis, Word
from asr_runtime.errors import DecoderError
from asr_runtime.lexicon import Words, read_lexicon

MOST = 150  # of what a word may gain, as natural logarithm: three times this, and the search's scale, fit in a double
BLANKS = frozenset({"<blank>", "<blk>", "<ctc>", "<eps>", "<epsilon>", "<pad>", "[PAD]"})  # no text has these
__all__ = [
    "BeamConfig",
    "BeamSearchDecoder",
    "Hypothesis",
    "Stream",
    "WithHotWords",
    "Word",
    "check_settings",
    "default_config",
]


@dataclass(frozen=True)
class BeamConfig:
    """Settings of the search; all weights and thresholds are natural logarithms.

    beam_size: hypotheses kept per frame.
    beam_threshold: hypotheses further below the best are dropped; inf prunes by beam_size alone.
    token_floor: tokens of lower log-probability in a frame are not expanded (the blank and a repeat always are).
    alpha: weight of ln P_LM.
    beta: bonus per word.
    unknown_word_penalty: added for each word outside the lexicon; -inf allows words of the lexicon only.
    end_of_sentence: score ``</s>`` at the end.
    look_ahead: charge a word's best possible unigram while it is being spelled.
    repeated_spaces: a space may come again after a blank, or first, without a word between; False counts only
    alignments that have one space between words.
    confidence_scale, confidence_offset: confidences become the logistic function of scale * (logarithm of their odds) +
    offset, which brings those of a model that is too sure of itself near the share of right words; `asr-export tune`
    finds both. Texts stay as they are.
    n_best: texts returned; 1 is fastest, since hypotheses that go on alike are then merged.
    hot_words: word or phrase -> boost, added when it stands in the text (below 0: taken away); they need be
        neither in the lexicon nor in the language model. Part of a boost counts while its phrase is being spelled.
        With a lexicon of pronunciations, ``"kubernetes=cooper net ease"`` says how a word sounds that it does not have.
    """

    beam_size: int = 100
    beam_threshold: float = 12.0
    token_floor: float = -7.0
    alpha: float = 0.9
    beta: float = 2.0
    unknown_word_penalty: float = -math.inf
    end_of_sentence: bool = True
    look_ahead: bool = True
    repeated_spaces: bool = False
    confidence_scale: float = 1.0
    confidence_offset: float = 0.0
    n_best: int = 1
    hot_words: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("beam_size", "n_best"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
                raise DecoderError(f"got {name} {value!r:.80}, wanted a whole number from 1 to 1000000")
        for item in fields(self):
            if item.type == "float" and not _is_number(value := getattr(self, name := item.name)):
                raise DecoderError(f"got {name} {value!r:.80}, wanted a number")
        for name in ("end_of_sentence", "look_ahead", "repeated_spaces"):
            if not isinstance(value := getattr(self, name), bool):
                raise DecoderError(f"got {name} {value!r:.80}, wanted true or false")
        self._check_ranges()

    def _check_ranges(self) -> None:
        if not self.beam_threshold > 0:
            raise DecoderError(f"got beam_threshold {self.beam_threshold}, wanted more than 0")
        if not self.token_floor < 0:
            raise DecoderError(f"got token_floor {self.token_floor}, wanted less than 0 (-inf expands every token)")
        if not 0 <= self.alpha < math.inf:
            raise DecoderError(f"got alpha {self.alpha}, wanted a finite number that is not negative")
        if not 0 < self.confidence_scale < math.inf:
            raise DecoderError(f"got confidence_scale {self.confidence_scale}, wanted a finite number above 0")
        if not math.isfinite(self.confidence_offset):
            raise DecoderError(f"got confidence_offset {self.confidence_offset}, wanted a finite number")
        if not -math.inf < self.beta <= MOST:
            raise DecoderError(f"got beta {self.beta}, wanted a finite number up to {MOST}")
        if self.unknown_word_penalty > MOST:
            told = f"got unknown_word_penalty {self.unknown_word_penalty}, wanted a number up to {MOST}"
            raise DecoderError(f"{told}, or -inf for lexicon words only")
        _phrases(self.hot_words)

    def _options(self) -> _decoder.Options:
        options = _decoder.Options()
        for item in fields(self):
            if item.name != "hot_words":
                setattr(options, item.name, getattr(self, item.name))
        return options


def check_settings(names: Iterable[str]) -> None:
    """Raise DecoderError unless all are fields of BeamConfig."""
    known = {item.name for item in fields(BeamConfig)}
    if unknown := sorted(set(names) - known):
        raise DecoderError(f"the beam search has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}.")


def default_config(language_model: str | os.PathLike[str] | None = None) -> BeamConfig:
    """The settings where none are given: those of BeamConfig, but a `.scorer` package brings its own alpha and beta."""
    weights = None if language_model is None else scorer_weights(language_model)
    return BeamConfig() if weights is None else BeamConfig(alpha=weights[0], beta=weights[1])


def scorer_weights(language_model: str | os.PathLike[str]) -> tuple[float, float] | None:
    """Alpha and beta that a `.scorer` package brings; None for any other file.

    Raises DecoderError where a search cannot use them.
    """
    weights = _decoder.scorer_weights(os.fspath(language_model)) if Path(language_model).is_file() else None
    if weights is not None:
        try:
            BeamConfig(alpha=weights[0], beta=weights[1])
        except DecoderError as error:
            raise DecoderError(
                f"the weights in {os.fspath(language_model)} cannot be used: {error}; give another package"
            ) from None
    return weights


class BeamSearchDecoder:
    """Turns log-probabilities [frames, tokens] into texts.

    tokens: what each column stands for; the blank is ``""``. When no token is empty, it is the column ``blank`` (-1:
    the last), or without that the only token with a name like ``<blank>`` or ``<pad>``. Words are separated by the
    token ``" "`` (or ``"|"``), or begin with ``▁``, or go on with ``##``.
    language_model: path of an ARPA file, of any KenLM binary, or of a `.scorer` package of DeepSpeech or Coqui. One
    whose units are the tokens scores tokens.
    lexicon: path of a word list, one word a line, or the words; None takes the words of the language model. Where
    tokens are phonemes, or others that do not spell words: path of lines "word<tab>token token …", or a mapping from
    a word to its pronunciation or pronunciations, like ``{"two": "T UW", "to": ["T UW", "T AH"]}``.
    config: None is `default_config(language_model)`.
    settings: fields of BeamConfig in place of those of `config`, like ``beam_size=200``.
    Raises DecoderError when a file, a word or a hot word of the configuration cannot be used.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        language_model: str | os.PathLike[str] | None = None,
        lexicon: str | os.PathLike[str] | Words | None = None,
        blank: int | None = None,
        config: BeamConfig | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and not isinstance(config, BeamConfig):
            raise DecoderError(f"got the configuration {config!r:.80}, wanted a BeamConfig, like BeamConfig(alpha=0.8)")
        self.tokens = _check_tokens(tokens)
        check_settings(settings)
        self.config = replace(default_config(language_model) if config is None else config, **settings)
        lm = None if language_model is None else os.fspath(language_model)
        words = None if lexicon is None else read_lexicon(lexicon)
        column = _blank(self.tokens) if blank is None else blank
        self._decoder = _decoder.Decoder(list(self.tokens), column, lm, words, self.config._options())
        self._decoder.check_hot_words(self._hot(None))
        model = "no language model" if lm is None else f"{Path(lm).name} ({Path(lm).stat().st_size / 1e6:.1f} MB)"
        self._description = f"{len(self.tokens)} tokens, {model}, beam {self.config.beam_size}"

    def __repr__(self) -> str:
        return f"<BeamSearchDecoder: {self._description}>"

    def decode(self, log_probs: npt.ArrayLike, *, hot_words: Mapping[str, float] | None = None) -> list[Hypothesis]:
        """Natural-log probabilities [frames, tokens] -> up to n_best texts, best first (always at least one).

        hot_words: instead of those of the configuration.
        """
        return self._decoder.decode(self._check(log_probs), self._hot(hot_words))

    def decode_batch(
        self, log_probs: Iterable[npt.ArrayLike], threads: int = 1, *, hot_words: Mapping[str, float] | None = None
    ) -> list[list[Hypothesis]]:
        """Many utterances on `threads` threads, without the GIL; the results are those of `decode`, in order."""
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise DecoderError(f"got threads {threads!r}, wanted a whole number from 1 on")
        arrays = []
        for index, item in enumerate(log_probs):
            try:
                arrays.append(self._check(item))
            except DecoderError as error:
                raise DecoderError(f"item {index}: {error}") from None
        return self._decoder.decode_batch(arrays, threads, self._hot(hot_words))

    def stream(self, *, hot_words: Mapping[str, float] | None = None) -> Stream:
        """A search that is fed piece by piece; any cuts give what `decode` gives for the whole."""
        return Stream(self, self._hot(hot_words))

    def _hot(self, hot_words: Mapping[str, float] | None) -> list[tuple[str, float]]:
        return _phrases(self.config.hot_words if hot_words is None else hot_words)

    def _check(self, log_probs: npt.ArrayLike) -> npt.NDArray[np.float32]:
        try:
            array: npt.NDArray[Any] = np.asarray(log_probs)
        except (ValueError, TypeError):
            raise DecoderError("log-probabilities are not an array of numbers; wanted [frames, tokens]") from None
        wanted = f"[frames, tokens={len(self.tokens)}]"
        if array.ndim != 2 or array.shape[1] != len(self.tokens):
            turned = array.ndim == 2 and array.shape[0] == len(self.tokens)
            advice = "; it looks transposed, give .T" if turned else ""
            raise DecoderError(f"got log-probabilities of shape {list(array.shape)}, wanted {wanted}{advice}")
        if array.dtype.kind != "f":
            raise DecoderError(f"got log-probabilities of type {array.dtype}, wanted floating-point numbers {wanted}")
        return np.ascontiguousarray(array, dtype=np.float32)


class WithHotWords:
    """Streams of a decoder with these hot words in place of its configuration's.

    Several may go on at the same time. Raises DecoderError for impossible ones.
    """

    def __init__(self, decoder: BeamSearchDecoder, hot_words: Mapping[str, float]) -> None:
        self._decoder, self._phrases = decoder, _phrases(hot_words)
        decoder._decoder.check_hot_words(self._phrases)

    def stream(self) -> Stream:
        """See `BeamSearchDecoder.stream`."""
        return Stream(self._decoder, self._phrases)


class Stream:
    """One utterance in pieces: `feed` log-probabilities, look at `partial`, take `finish`."""

    def __init__(self, decoder: BeamSearchDecoder, hot_words: list[tuple[str, float]]) -> None:
        self._owner = decoder
        self._stream = _decoder.Stream(decoder._decoder, hot_words)

    def feed(self, log_probs: npt.ArrayLike) -> None:
        """The next frames, [frames, tokens]; a piece that is refused leaves the stream as it was."""
        self._stream.feed(self._owner._check(log_probs))

    def partial(self) -> Hypothesis:
        """The best text so far; its last word may be unfinished, and is left out where words are pronounced."""
        return self._stream.partial()

    def finish(self) -> list[Hypothesis]:
        """What `decode` gives for all frames so far; more may be fed afterwards."""
        return self._stream.finish()


def _is_number(value: Any) -> bool:
    """A number that a double holds, or an infinity."""
    if not isinstance(value, (int, float, np.floating, np.integer)) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def _is_text(value: object) -> bool:
    """A string that has UTF-8, as one with a lone surrogate has not."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _phrases(hot_words: Mapping[str, float]) -> list[tuple[str, float]]:
    if not isinstance(hot_words, Mapping):
        raise DecoderError(
            f"got hot_words {hot_words!r:.80}, wanted a boost for each word or phrase, like {{'kubernetes': 8.0}}"
        )
    phrases = []
    for phrase, boost in hot_words.items():
        if not _is_text(phrase) or not phrase.split():
            raise DecoderError(f"got the hot word {phrase!r:.80}, wanted a word or phrase")
        if not _is_number(boost) or not -math.inf < boost <= MOST:
            told = f"got the boost {boost!r:.80} for the hot word {phrase!r:.80}"
            raise DecoderError(f"{told}, wanted a finite number up to {MOST}")
        phrases.append((" ".join(phrase.split()), float(boost)))
    return phrases


def _blank(tokens: Sequence[str]) -> int:
    """Where no column was named: the place of the blank by its name."""
    named = [place for place, token in enumerate(tokens) if token in BLANKS]
    if "" not in tokens and len(named) != 1 and len(tokens) > 1:
        found = (
            f"{len(named)} tokens of names like <blank>" if named else f"tokens from {tokens[0]!r} to {tokens[-1]!r}"
        )
        raise DecoderError(f"got {found:.200}, none of them '', the blank; name its column: blank=N (-1 is the last)")
    return named[0] if named else -1


def _check_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise DecoderError("tokens must be a sequence of strings, one for each column of the log-probabilities")
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not _is_text(token):
            raise DecoderError(f"token {token!r:.80} at {index} is no Unicode text; wanted no lone surrogates")
        if token in seen and token:
            raise DecoderError(f"token {token!r} stands at {seen[token]} and at {index}; wanted different tokens")
        seen[token] = index
    return tuple(tokens)
