"""The names, arguments and results of ds_ctcdecoder 0.9.3 (DeepSpeech; Coqui's decoder has the same).

>>> from asr_runtime.compat.ds_ctcdecoder import Alphabet, Scorer, ctc_beam_search_decoder
>>> alphabet = Alphabet("alphabet.txt")
>>> scorer = Scorer(0.75, 1.85, "english.scorer", alphabet)
>>> confidence, text = ctc_beam_search_decoder(probabilities, alphabet, 500, scorer=scorer)[0]

The score is the same, ``ln P_CTC + alpha * ln P_LM + beta * words`` without ``</s>``, and so is the search.
Different on purpose (docs/compat.md): it never dies; with a scorer texts have no space at their ends, and an unfinished
last word is dropped, not charged with -1000; a hot word counts once, where it stands.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr_runtime.compat import CompatError, RecentDecoders, value_errors
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder, Hypothesis

__all__ = ["Alphabet", "Scorer", "ctc_beam_search_decoder", "ctc_beam_search_decoder_batch"]

Results = list[tuple[float, str]]
HotWords = Mapping[str, float] | Mapping[bytes, float]  # ds_ctcdecoder 0.9.3 takes keys of bytes only

_TINY = 1.17549435e-38  # the smallest normal float32, which ds_ctcdecoder adds before it takes logarithms
_SURELY_BLANK = 0.999  # ds_ctcdecoder begins at the first frame whose blank is less likely
_BEAM_THRESHOLD = 20.0  # ds_ctcdecoder has none: wide enough to change nothing, narrow enough to be fast
_FIRST_PRIVATE = 0xF0000  # Unicode's private plane: characters that mean nothing, for searches without words


class Alphabet:
    """The characters of a model, from a file with one a line; lines that begin with # are comments, ``\\#`` is a #."""

    def __init__(self, config_path: str | os.PathLike[str]) -> None:
        self.labels = tuple(_read_labels(config_path))
        self._index = {label: index for index, label in enumerate(self.labels)}
        if len(self._index) != len(self.labels) or not self.labels:
            raise CompatError(f"the alphabet '{config_path}' is empty or names a character twice; wanted one a line")

    def GetSize(self) -> int:
        """Characters, without the blank."""
        return len(self.labels)

    def GetSpaceLabel(self) -> int:
        """Index of the space; -2 without one."""
        return self._index.get(" ", -2)

    def IsSpace(self, label: int) -> bool:
        """Whether this is the index of the space."""
        return label == self.GetSpaceLabel()

    def CanEncodeSingle(self, input: str) -> bool:
        """Whether the alphabet has this character."""
        return input in self._index

    def CanEncode(self, input: str) -> bool:
        """Whether the alphabet has every character of the text."""
        return all(character in self._index for character in input)

    def EncodeSingle(self, input: str) -> int:
        """Index of a character; CompatError for one that the alphabet lacks."""
        if input not in self._index:
            raise CompatError(f"got the character {input!r}, wanted one of the alphabet's {len(self.labels)}")
        return self._index[input]

    def Encode(self, input: str) -> list[int]:
        """Indices of a text's characters; CompatError for one that the alphabet lacks."""
        return [self.EncodeSingle(character) for character in input]

    def DecodeSingle(self, input: int) -> str:
        """The character of an index."""
        if not 0 <= input < len(self.labels):
            raise CompatError(f"got the label {input}, wanted 0 to {len(self.labels) - 1}")
        return self.labels[input]

    def Decode(self, input: Iterable[int]) -> str:
        """The text of a sequence of indices."""
        return "".join(self.DecodeSingle(label) for label in input)


class Scorer:
    """A `.scorer` package with its weights; CompatError when it cannot be read or is for another alphabet."""

    def __init__(
        self,
        alpha: float,
        beta: float,
        scorer_path: str | os.PathLike[str],
        alphabet: Alphabet,
    ) -> None:
        self.alpha, self.beta = alpha, beta
        self.labels = alphabet.labels
        self._path = scorer_path
        self._decoders = RecentDecoders(self._build)
        with value_errors():
            self._decoders.get(BeamConfig(alpha=alpha, beta=beta))

    def reset_params(self, alpha: float, beta: float) -> None:
        """New weights for the following calls."""
        self.alpha, self.beta = alpha, beta

    def is_utf8_mode(self) -> bool:
        """False: scorers for models whose outputs are bytes are refused."""
        return False

    def decoder(self, config: BeamConfig) -> BeamSearchDecoder:
        """The search over this scorer's words."""
        return self._decoders.get(config)

    def _build(self, config: BeamConfig) -> BeamSearchDecoder:
        return BeamSearchDecoder([*self.labels, ""], language_model=self._path, config=config)


def ctc_beam_search_decoder(
    probs_seq: npt.ArrayLike,
    alphabet: Alphabet,
    beam_size: int,
    cutoff_prob: float = 1.0,
    cutoff_top_n: int = 40,
    scorer: Scorer | None = None,
    hot_words: HotWords | None = None,
    num_results: int = 1,
) -> Results:
    """Probabilities [time, classes], the blank last -> up to num_results of (natural-log score, text), best first.

    cutoff_prob: of each frame, only the likeliest tokens that add up to this, and at most cutoff_top_n of them; the
    blank is never cut, and cutoff_prob 1.0 cuts nothing, whatever cutoff_top_n says.
    hot_words: word (also as UTF-8 bytes) -> boost, weighted by the scorer's alpha.
    Raises CompatError (a ValueError) for input or settings that cannot be meant.
    """
    with value_errors():
        search = _Search(alphabet, beam_size, cutoff_prob, cutoff_top_n, scorer, hot_words, num_results)
        return search.results(search.decoder.decode(search.log_probs(probs_seq), hot_words=search.hot_words))


def ctc_beam_search_decoder_batch(
    probs_seq: Sequence[npt.ArrayLike] | npt.NDArray[np.floating],
    seq_lengths: Iterable[int],
    alphabet: Alphabet,
    beam_size: int,
    num_processes: int,
    cutoff_prob: float = 1.0,
    cutoff_top_n: int = 40,
    scorer: Scorer | None = None,
    hot_words: HotWords | None = None,
    num_results: int = 1,
) -> list[Results]:
    """Many utterances [batch, time, classes], of which the first seq_lengths[i] frames count, on num_processes threads.

    The results are those of `ctc_beam_search_decoder`, in order.
    """
    lengths = list(seq_lengths)
    if len(lengths) != len(probs_seq):
        raise CompatError(f"got {len(lengths)} lengths for {len(probs_seq)} utterances, wanted one for each")
    with value_errors():
        search = _Search(alphabet, beam_size, cutoff_prob, cutoff_top_n, scorer, hot_words, num_results)
        items = [
            search.log_probs(_cut(item, length, index))
            for index, (item, length) in enumerate(zip(probs_seq, lengths, strict=True))
        ]
        batch = search.decoder.decode_batch(items, threads=num_processes, hot_words=search.hot_words)
        return [search.results(found) for found in batch]


class _Search:
    """Settings of a call in our terms."""

    def __init__(
        self,
        alphabet: Alphabet,
        beam_size: int,
        cutoff_prob: float,
        cutoff_top_n: int,
        scorer: Scorer | None,
        hot_words: HotWords | None,
        num_results: int,
    ) -> None:
        if not 0 < cutoff_prob <= 1:
            raise CompatError(f"got cutoff_prob {cutoff_prob!r}, wanted more than 0 and at most 1")
        for name, value in (("cutoff_top_n", cutoff_top_n), ("num_results", num_results)):
            if not value >= 1:
                raise CompatError(f"got {name} {value!r}, wanted 1 or more")
        self.classes = len(alphabet.labels) + 1
        self.cutoff_prob, self.top_n, self.num_results = cutoff_prob, cutoff_top_n, num_results
        config = BeamConfig(
            beam_size=beam_size,
            beam_threshold=_BEAM_THRESHOLD,
            token_floor=-math.inf,
            alpha=scorer.alpha if scorer else 0.0,
            beta=scorer.beta if scorer else 0.0,
            end_of_sentence=False,
            look_ahead=False,
            repeated_spaces=False,
            n_best=max(num_results, 2),  # 1 lets the search merge hypotheses, which ds_ctcdecoder does not
        )
        self.hot_words = _boosts(hot_words, scorer.alpha) if hot_words and scorer else {}
        self.private = alphabet if scorer is None else None
        self.decoder = _without_words(alphabet, config, hot_words) if scorer is None else scorer.decoder(config)
        if scorer and scorer.labels != alphabet.labels:
            raise CompatError(
                "the scorer was loaded with another alphabet than the one given; wanted the same for both"
            )

    def log_probs(self, probs_seq: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Checked probabilities as what our decoder takes."""
        probs = _probabilities(probs_seq, self.classes)
        awake = probs[:, -1] < _SURELY_BLANK
        probs = probs[awake.argmax() if awake.any() else len(probs) :]
        logs = np.log(probs + _TINY).astype(np.float32)
        if self.cutoff_prob < 1 and len(logs):
            logs[:, :-1][self._cut(probs)[:, :-1]] = -np.inf
        return logs

    def _cut(self, probs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which tokens are not among a frame's likeliest, by number and by the sum of their probabilities."""
        order = np.argsort(-probs, axis=1, kind="stable")
        sorted_probs = np.take_along_axis(probs, order, axis=1)
        before = np.cumsum(sorted_probs, axis=1) - sorted_probs
        late = before >= self.cutoff_prob
        late[:, self.top_n :] = True
        cut = np.empty_like(late)
        np.put_along_axis(cut, order, late, axis=1)
        return cut

    def results(self, hypotheses: list[Hypothesis]) -> Results:
        """What ds_ctcdecoder returns: (score, text)."""
        return [
            (h.score, _text_of(h.text, self.private) if self.private else h.text)
            for h in hypotheses[: self.num_results]
        ]


def _without_words(alphabet: Alphabet, config: BeamConfig, hot_words: HotWords | None) -> BeamSearchDecoder:
    """Without a scorer ds_ctcdecoder knows no words: a space is a character like any other."""
    if hot_words:
        warnings.warn("hot words have no effect without a scorer, as in ds_ctcdecoder", stacklevel=4)
    return BeamSearchDecoder([*(chr(_FIRST_PRIVATE + i) for i in range(alphabet.GetSize())), ""], config=config)


def _boosts(hot_words: HotWords, alpha: float) -> dict[str, float]:
    return {word.decode() if isinstance(word, bytes) else word: boost * alpha for word, boost in hot_words.items()}


def _text_of(private: str, alphabet: Alphabet) -> str:
    return alphabet.Decode(ord(character) - _FIRST_PRIVATE for character in private)


def _probabilities(probs_seq: npt.ArrayLike, classes: int) -> npt.NDArray[np.float64]:
    try:
        probs = np.asarray(probs_seq, dtype=np.float64)
    except (ValueError, TypeError):
        raise CompatError("got something that is no array of numbers, wanted probabilities [time, classes]") from None
    if probs.ndim == 1 and probs.size == 0:
        probs = probs.reshape(0, classes)
    if probs.ndim != 2 or probs.shape[1] != classes:
        raise CompatError(
            f"got probabilities of shape {list(probs.shape)}, wanted [time, classes={classes}]: "
            f"the alphabet's {classes - 1} characters, then the blank"
        )
    if np.isnan(probs).any():
        raise CompatError(f"frame {np.isnan(probs).any(axis=1).argmax()} has a NaN, wanted probabilities from 0 to 1")
    if probs.size and not (probs.min() >= 0 and probs.max() <= 1.01):
        raise CompatError(
            f"got values from {probs.min():.4g} to {probs.max():.4g}, wanted probabilities from 0 to 1; "
            "of log-probabilities take np.exp, of logits the softmax"
        )
    return probs


def _cut(item: npt.ArrayLike, length: int, index: int) -> npt.ArrayLike:
    frames = len(item)  # type: ignore[arg-type]
    if not 0 <= length <= frames:
        raise CompatError(f"item {index} has {frames} frames and the length {length}, wanted 0 to {frames}")
    return item[: int(length)]  # type: ignore[index]


def _read_labels(path: str | os.PathLike[str]) -> Iterable[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CompatError(f"cannot read the alphabet '{path}': {reason}; wanted one character a line") from None
    for line in re.split(r"\r\n|\r|\n", text):
        if line == "\\#":
            yield "#"
        elif line and not line.startswith("#"):
            yield line
