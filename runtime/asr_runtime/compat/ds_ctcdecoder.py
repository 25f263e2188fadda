"""The interface of ds_ctcdecoder 0.9.3 (DeepSpeech): probabilities in, (score, text) pairs out.

The score of a text is DeepSpeech's: ``ln P_CTC + alpha * ln P_LM + beta * words``, without ``</s>``; words outside the
scorer's list are not spelled. Input that ended the process or gave an empty text there raises DecoderError here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder, Hypothesis
from asr_runtime.errors import DecoderError

__all__ = ["Alphabet", "Scorer", "ctc_beam_search_decoder", "ctc_beam_search_decoder_batch"]

Results = list[tuple[float, str]]


class Alphabet:
    """The labels of a file, one a line; `#` begins a comment, `\\#` is the label `#`. The blank comes last."""

    def __init__(self, config_path: str | os.PathLike[str]) -> None:
        try:
            lines = Path(config_path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DecoderError(f"cannot read the alphabet '{os.fspath(config_path)}': {error}") from None
        self.labels = ["#" if line == "\\#" else line for line in lines if line and not line.startswith("#")]
        self._index = {label: index for index, label in enumerate(self.labels)}

    def GetSize(self) -> int:
        """How many labels there are, without the blank."""
        return len(self.labels)

    def CanEncodeSingle(self, input: str) -> bool:
        """Whether this is one of the labels."""
        return input in self._index

    def CanEncode(self, input: str) -> bool:
        """Whether every character is a label."""
        return all(character in self._index for character in input)

    def EncodeSingle(self, input: str) -> int:
        """The index of a label."""
        return self.Encode([input])[0]

    def Encode(self, input: Iterable[str]) -> list[int]:
        """The indexes of the characters of a text."""
        try:
            return [self._index[character] for character in input]
        except KeyError as error:
            raise DecoderError(f"the alphabet has no label {error.args[0]!r}") from None

    def DecodeSingle(self, input: int) -> str:
        """The label of an index."""
        return self.labels[input]

    def Decode(self, input: Iterable[int]) -> str:
        """The text of some indexes."""
        return "".join(self.labels[index] for index in input)


class Scorer:
    """A `.scorer` package with its weights; decoders are kept for the settings they were asked for last."""

    def __init__(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        scorer_path: str | os.PathLike[str] | None = None,
        alphabet: Alphabet | None = None,
    ) -> None:
        if scorer_path is None or alphabet is None or alpha is None or beta is None:
            raise DecoderError("a Scorer needs alpha, beta, scorer_path and alphabet")
        self.scorer_path, self.alphabet = os.fspath(scorer_path), alphabet
        self.reset_params(alpha, beta)
        self.decoder(1, 1)  # a missing or foreign file is found here

    def reset_params(self, alpha: float, beta: float) -> None:
        """Sets the weight of the language model (natural log) and the bonus per word."""
        self.alpha, self.beta = float(alpha), float(beta)
        self._decoder: BeamSearchDecoder | None = None

    def decoder(self, beam_size: int, num_results: int) -> BeamSearchDecoder:
        """The decoder for these settings."""
        config = _config(beam_size, num_results, self.alpha, self.beta)
        if self._decoder is None or self._decoder.config != config:
            tokens = [*self.alphabet.labels, ""]
            self._decoder = BeamSearchDecoder(tokens, language_model=self.scorer_path, config=config)
        return self._decoder


def ctc_beam_search_decoder(
    probs_seq: npt.ArrayLike,
    alphabet: Alphabet,
    beam_size: int,
    cutoff_prob: float = 1.0,
    cutoff_top_n: int = 40,
    scorer: Scorer | None = None,
    hot_words: Mapping[str, float] | None = None,
    num_results: int = 1,
) -> Results:
    """Probabilities [frames, labels + blank] -> up to num_results pairs of score (natural log) and text, best first."""
    decoder, hot = _prepare(alphabet, beam_size, scorer, hot_words, num_results)
    return _pairs(decoder.decode(_log_probs(probs_seq, cutoff_prob, cutoff_top_n), hot_words=hot))


def ctc_beam_search_decoder_batch(
    probs_seq: npt.ArrayLike,
    seq_lengths: Sequence[int],
    alphabet: Alphabet,
    beam_size: int,
    num_processes: int,
    cutoff_prob: float = 1.0,
    cutoff_top_n: int = 40,
    scorer: Scorer | None = None,
    hot_words: Mapping[str, float] | None = None,
    num_results: int = 1,
) -> list[Results]:
    """The same for [batch, frames, labels + blank] with the frames that count of each, on num_processes threads."""
    decoder, hot = _prepare(alphabet, beam_size, scorer, hot_words, num_results)
    items = list(np.asarray(probs_seq))
    if len(items) != len(seq_lengths):
        raise DecoderError(f"got {len(items)} items and {len(seq_lengths)} lengths; wanted one length for each item")
    batch = []
    for item, length in zip(items, seq_lengths, strict=True):
        if not 0 <= length <= len(item):
            raise DecoderError(f"got a length of {length} for an item of {len(item)} frames")
        batch.append(_log_probs(item[:length], cutoff_prob, cutoff_top_n))
    return [_pairs(found) for found in decoder.decode_batch(batch, threads=int(num_processes), hot_words=hot)]


def _config(beam_size: int, num_results: int, alpha: float, beta: float) -> BeamConfig:
    # DeepSpeech has neither a threshold nor a floor; 30 below the best is beyond what changes a result.
    return BeamConfig(
        beam_size=beam_size,
        n_best=num_results,
        alpha=alpha,
        beta=beta,
        beam_threshold=30.0,
        token_floor=-30.0,
        end_of_sentence=False,
    )


def _prepare(
    alphabet: Alphabet, beam_size: int, scorer: Scorer | None, hot_words: Mapping[str, float] | None, num_results: int
) -> tuple[BeamSearchDecoder, dict[str, float]]:
    if scorer is None:
        config = _config(beam_size, num_results, 0.0, 0.0)
        return BeamSearchDecoder([*alphabet.labels, ""], config=config), dict(hot_words or {})
    # There, a boost is added to the language model's logarithm and weighted with it.
    hot = {word: boost * scorer.alpha for word, boost in (hot_words or {}).items()}
    return scorer.decoder(beam_size, num_results), hot


def _log_probs(probabilities: npt.ArrayLike, cutoff_prob: float, cutoff_top_n: int) -> npt.NDArray[np.float32]:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2:
        raise DecoderError(f"got probabilities of shape {list(p.shape)}, wanted [frames, labels + blank]")
    if p.size and not ((p >= 0) & (p <= 1.01)).all():
        raise DecoderError("got values below 0, above 1 or NaN; wanted probabilities, not logarithms: take np.exp")
    if cutoff_prob < 1.0 or cutoff_top_n < p.shape[1]:
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=1)
        before = np.cumsum(ranked, axis=1) - ranked
        kept = (before < cutoff_prob) & (np.arange(p.shape[1]) < cutoff_top_n)
        p = np.where(np.take_along_axis(kept, np.argsort(order, axis=1), axis=1), p, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(p).astype(np.float32)


def _pairs(found: list[Hypothesis]) -> Results:
    return [(hypothesis.score, hypothesis.text) for hypothesis in found]
