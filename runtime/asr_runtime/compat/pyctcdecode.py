"""The interface of pyctcdecode 0.5: `build_ctcdecoder(labels, ...)` and what its decoder does.

Scores follow ours (docs/decoder.md): the language model looks ahead inside words, alignments are summed, and prefixes
are pruned by `beam_prune_logp` and `beam_width`; texts are at least as good by the same formula, not always the same.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder, Hypothesis
from asr_runtime.errors import DecoderError

__all__ = ["BeamSearchDecoderCTC", "OutputBeam", "build_ctcdecoder"]

_SPECIAL = {"<pad>", "[PAD]", "<blank>", "_"}
_LEAST = -34.5  # ln 1e-15, as pyctcdecode clips


class _Weights(TypedDict):
    alpha: float
    beta: float
    unknown_word_penalty: float


class OutputBeam(NamedTuple):
    """A text with the frames of its words (start, end), its acoustic score and its whole score (natural log)."""

    text: str
    last_lm_state: None
    text_frames: list[tuple[str, tuple[int, int]]]
    logit_score: float
    lm_score: float


class BeamSearchDecoderCTC:
    """Decodes [frames, labels] of logits or log-probabilities."""

    def __init__(
        self,
        tokens: Sequence[str],
        language_model: str | None,
        unigrams: list[str] | None,
        weights: _Weights,
        end_of_sentence: bool,
    ) -> None:
        self._tokens, self._language_model, self._unigrams = list(tokens), language_model, unigrams
        self._weights, self._end_of_sentence = weights, end_of_sentence
        self._decoder_now: BeamSearchDecoder | None = None  # for the settings that were asked for last

    def reset_params(
        self, alpha: float | None = None, beta: float | None = None, unk_score_offset: float | None = None, **_: Any
    ) -> None:
        """Sets the weight of the language model, the bonus per word and the penalty per unknown word."""
        old = self._weights
        self._weights = {
            "alpha": old["alpha"] if alpha is None else alpha,
            "beta": old["beta"] if beta is None else beta,
            "unknown_word_penalty": old["unknown_word_penalty"] if unk_score_offset is None else unk_score_offset,
        }

    def decode(
        self,
        logits: npt.ArrayLike,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        **_: Any,
    ) -> str:
        """The best text."""
        decoder = self._decoder(beam_width, beam_prune_logp, token_min_logp, 1)
        return decoder.decode(_log_softmax(logits), hot_words=_hot(hotwords, hotword_weight))[0].text

    def decode_beams(
        self,
        logits: npt.ArrayLike,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        **_: Any,
    ) -> list[OutputBeam]:
        """The texts of the last beam, best first."""
        decoder = self._decoder(beam_width, beam_prune_logp, token_min_logp, beam_width)
        return [_beam(h) for h in decoder.decode(_log_softmax(logits), hot_words=_hot(hotwords, hotword_weight))]

    def decode_batch(
        self,
        pool: object,
        logits_list: Iterable[npt.ArrayLike],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        **_: Any,
    ) -> list[str]:
        """The best texts of many; a process pool is not needed, only its size is used, as a number of threads."""
        threads = 1 if pool is None else int(getattr(pool, "_processes", None) or os.cpu_count() or 1)
        decoder = self._decoder(beam_width, beam_prune_logp, token_min_logp, 1)
        items = [_log_softmax(logits) for logits in logits_list]
        found = decoder.decode_batch(items, threads=threads, hot_words=_hot(hotwords, hotword_weight))
        return [best[0].text for best in found]

    def _decoder(
        self, beam_width: int, beam_prune_logp: float, token_min_logp: float, n_best: int
    ) -> BeamSearchDecoder:
        config = BeamConfig(
            beam_size=beam_width,
            beam_threshold=-float(beam_prune_logp),
            token_floor=float(token_min_logp),
            n_best=n_best,
            end_of_sentence=self._end_of_sentence,
            **self._weights,
        )
        if self._decoder_now is None or self._decoder_now.config != config:
            self._decoder_now = BeamSearchDecoder(
                self._tokens, language_model=self._language_model, lexicon=self._unigrams, config=config
            )
        return self._decoder_now


def build_ctcdecoder(
    labels: Sequence[str],
    kenlm_model_path: str | os.PathLike[str] | None = None,
    unigrams: Collection[str] | None = None,
    alpha: float = 0.5,
    beta: float = 1.5,
    unk_score_offset: float = -10.0,
    lm_score_boundary: bool = True,
) -> BeamSearchDecoderCTC:
    """A decoder for these labels; the blank is "" (or `<pad>`, `[PAD]`, `<blank>`, `_`), the space " " or "|"."""
    tokens = ["" if label in _SPECIAL and "" not in labels else label for label in labels]
    if tokens.count("") != 1:
        raise DecoderError(f'got {tokens.count("")} labels for the blank, wanted one: "" or one of {sorted(_SPECIAL)}')
    known = set("".join(tokens))
    words = None if unigrams is None else [word for word in unigrams if word and set(word) <= known]
    weights: _Weights = {"alpha": alpha, "beta": beta, "unknown_word_penalty": unk_score_offset}
    path = None if kenlm_model_path is None else os.fspath(kenlm_model_path)
    return BeamSearchDecoderCTC(tokens, path, words, weights, lm_score_boundary)


def _log_softmax(logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
    x = np.asarray(logits, dtype=np.float64)
    if x.ndim != 2:
        raise DecoderError(f"got logits of shape {list(x.shape)}, wanted [frames, labels]")
    if not np.isfinite(x).any(axis=1).all() or np.isnan(x).any() or np.isposinf(x).any():
        raise DecoderError("got NaN, +inf or a frame of -inf in the logits; wanted finite numbers [frames, labels]")
    if x.size and (x >= 0).all() and np.allclose(x.sum(axis=1), 1.0, atol=1e-3):
        x = np.log(np.maximum(x, 1e-15))  # probabilities, as pyctcdecode takes them, too
    x = x - x.max(axis=1, keepdims=True, initial=-np.inf)
    x = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    clipped: npt.NDArray[np.float32] = np.clip(x, _LEAST, 0.0).astype(np.float32)
    return clipped


def _hot(hotwords: Iterable[str] | None, weight: float) -> dict[str, float]:
    return {word: weight for word in hotwords or () if word.strip()}


def _beam(hypothesis: Hypothesis) -> OutputBeam:
    frames = [(word.text, (word.start, word.end)) for word in hypothesis.words]
    return OutputBeam(hypothesis.text, None, frames, hypothesis.acoustic_score, hypothesis.score)
