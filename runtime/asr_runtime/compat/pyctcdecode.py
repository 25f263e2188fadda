"""The names, arguments and results of pyctcdecode 0.5.0.

>>> from asr_runtime.compat.pyctcdecode import build_ctcdecoder
>>> decoder = build_ctcdecoder(labels, "lm.arpa", alpha=0.5, beta=1.5)
>>> decoder.decode(logits)

The score is the same, ``ln P_CTC + alpha * ln P_LM + beta * words``, with ``alpha * ln 10 * unk_score_offset`` for each
unknown word and ``</s>`` where lm_score_boundary says so. docs/compat.md says what differs; prune_history is taken and
changes nothing, and of a pool only the size is used, as a number of threads.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr_runtime.compat import CompatError, RecentDecoders, pyctcdecode_folder, value_errors
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder, Hypothesis
from asr_runtime.errors import sentence

__all__ = ["BeamSearchDecoderCTC", "build_ctcdecoder"]

WordFrames = tuple[str, tuple[int, int]]
OutputBeamMPSafe = tuple[str, list[WordFrames], float, float]

_BOUNDARY = "▁"
_BLANK = re.compile(r"[<\[]pad[>\]]", re.IGNORECASE)
_UNKNOWN = re.compile(r"[<\[]unk[>\]]", re.IGNORECASE)
_SPECIAL = re.compile(r"[<\[].+[>\]]")
_LEAST_PROBABILITY = 1e-15  # pyctcdecode clips probabilities here


class OutputBeam(NamedTuple):
    """A hypothesis; the scores are natural logs, lm_score that of the whole, as in pyctcdecode."""

    text: str
    last_lm_state: None
    text_frames: list[WordFrames]
    logit_score: float
    lm_score: float


class BeamSearchDecoderCTC:
    """Decodes logits, log-probabilities or probabilities [frames, labels]; made by `build_ctcdecoder`."""

    def __init__(
        self,
        labels: Sequence[str],
        kenlm_model_path: str | os.PathLike[str] | None,
        unigrams: Collection[str] | None,
        alpha: float,
        beta: float,
        unk_score_offset: float,
        lm_score_boundary: bool,
    ) -> None:
        self._labels = _normalise(labels)
        self._language_model = kenlm_model_path
        self._unigrams = None if unigrams is None or kenlm_model_path is None else self._spellable(unigrams)
        self._alpha, self._beta = alpha, beta
        self._unk_score_offset, self._lm_score_boundary = unk_score_offset, lm_score_boundary
        self._decoders = RecentDecoders(self._build)
        with value_errors():
            self._decoders.get(self._config(100, -10.0, -5.0))

    def reset_params(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        unk_score_offset: float | None = None,
        lm_score_boundary: bool | None = None,
    ) -> None:
        """New weights for the following calls; None keeps the old one."""
        self._alpha = self._alpha if alpha is None else alpha
        self._beta = self._beta if beta is None else beta
        self._unk_score_offset = self._unk_score_offset if unk_score_offset is None else unk_score_offset
        self._lm_score_boundary = self._lm_score_boundary if lm_score_boundary is None else lm_score_boundary

    @classmethod
    def load_from_dir(
        cls, filepath: str | os.PathLike[str], unigram_encoding: str | None = None
    ) -> BeamSearchDecoderCTC:
        """The decoder that `save_to_dir`, or pyctcdecode's, saved in a folder; raises CompatError for others."""
        return cls(**vars(pyctcdecode_folder.read(Path(filepath), unigram_encoding)))

    @classmethod
    def load_from_hf_hub(cls, model_id: str, cache_dir: str | None = None, **kwargs: Any) -> BeamSearchDecoderCTC:
        """The decoder of a model on Hugging Face's hub; `kwargs` are those of its `snapshot_download`."""
        try:
            from huggingface_hub import snapshot_download
        except ModuleNotFoundError as error:
            raise CompatError(sentence(error, "huggingface")) from None
        return cls.load_from_dir(snapshot_download(model_id, cache_dir=cache_dir, **kwargs))

    def save_to_dir(self, filepath: str | os.PathLike[str]) -> None:
        """Save the decoder as pyctcdecode does, with a copy of its language model, where none is saved yet."""
        model = None if self._language_model is None else Path(self._language_model)
        weights = self._alpha, self._beta, self._unk_score_offset, self._lm_score_boundary
        pyctcdecode_folder.write(
            Path(filepath), pyctcdecode_folder.Saved(self._labels, model, self._unigrams, *weights)
        )

    def decode(
        self,
        logits: npt.NDArray[np.floating],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        lm_start_state: None = None,
    ) -> str:
        """The best text."""
        _refuse_state(lm_start_state)
        with value_errors():
            config = self._config(beam_width, beam_prune_logp, token_min_logp)
            hot_words = _boosts(hotwords, hotword_weight)
            return self._decoders.get(config).decode(self._log_probs(logits), hot_words=hot_words)[0].text

    def decode_beams(
        self,
        logits: npt.NDArray[np.floating],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        prune_history: bool = False,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        lm_start_state: None = None,
    ) -> list[OutputBeam]:
        """Up to beam_width beams, best first: (text, None, words with frames, acoustic score, whole score).

        The second is pyctcdecode's state of the language model, which there is no use for here: always None.
        """
        _refuse_state(lm_start_state)
        with value_errors():
            config = self._config(beam_width, beam_prune_logp, token_min_logp, beam_width)
            hot_words = _boosts(hotwords, hotword_weight)
            found = self._decoders.get(config).decode(self._log_probs(logits), hot_words=hot_words)
        beams = _beams(found, beam_prune_logp)
        return [OutputBeam(text, None, frames, acoustic, score) for text, frames, acoustic, score in beams]

    def decode_batch(
        self,
        pool: object,
        logits_list: Iterable[npt.NDArray[np.floating]],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
    ) -> list[str]:
        """The best text of each; of a pool only the size is used, as a number of threads."""
        with value_errors():
            config = self._config(beam_width, beam_prune_logp, token_min_logp)
            return [
                found[0].text
                for found in self._decode_many(pool, logits_list, config, _boosts(hotwords, hotword_weight))
            ]

    def decode_beams_batch(
        self,
        pool: object,
        logits_list: Iterable[npt.NDArray[np.floating]],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        prune_history: bool = False,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
    ) -> list[list[OutputBeamMPSafe]]:
        """The beams of each, without the language model's state; threads as in `decode_batch`."""
        with value_errors():
            config = self._config(beam_width, beam_prune_logp, token_min_logp, beam_width)
            return [
                _beams(found, beam_prune_logp)
                for found in self._decode_many(pool, logits_list, config, _boosts(hotwords, hotword_weight))
            ]

    def _decode_many(
        self,
        pool: object,
        logits_list: Iterable[npt.NDArray[np.floating]],
        config: BeamConfig,
        hot_words: dict[str, float],
    ) -> list[list[Hypothesis]]:
        threads = 1 if pool is None else int(getattr(pool, "_processes", None) or os.cpu_count() or 1)
        items = [self._log_probs(logits) for logits in logits_list]
        return self._decoders.get(config).decode_batch(items, threads=threads, hot_words=hot_words)

    def _config(
        self,
        beam_width: int,
        beam_prune_logp: float,
        token_min_logp: float,
        n_best: int = 2,
    ) -> BeamConfig:
        has_lm = self._language_model is not None
        return BeamConfig(
            beam_size=beam_width,
            beam_threshold=-beam_prune_logp,
            token_floor=token_min_logp,
            alpha=self._alpha if has_lm else 0.0,
            beta=self._beta if has_lm else 0.0,
            unknown_word_penalty=self._alpha * math.log(10) * self._unk_score_offset if has_lm else 0.0,
            end_of_sentence=self._lm_score_boundary,
            repeated_spaces=True,
            n_best=max(n_best, 2),  # 1 lets the search merge hypotheses: another text than the first beam's, at times
        )

    def _build(self, config: BeamConfig) -> BeamSearchDecoder:
        return BeamSearchDecoder(
            self._labels, language_model=self._language_model, lexicon=self._unigrams, config=config
        )

    def _spellable(self, unigrams: Collection[str]) -> list[str]:
        """Words that the labels can spell: the others can never be decoded, and pyctcdecode takes them, too."""
        characters = set("".join(self._labels)) - {" "}  # which ends a word, so that none with it is ever decoded
        words = [word for word in dict.fromkeys(unigrams) if word and characters.issuperset(word)]
        if not words:
            raise CompatError(
                f"none of the {len(unigrams)} unigrams can be spelled with the labels; wanted words of them"
            )
        return words

    def _log_probs(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """As pyctcdecode: rows that add up to 1 are probabilities, anything else goes through a log-softmax."""
        values = _checked(logits, len(self._labels))
        if not len(values):
            return values.astype(np.float32)
        if math.isclose(values.sum(axis=1).mean(), 1, rel_tol=1e-6):
            return np.log(np.clip(values, _LEAST_PROBABILITY, 1)).astype(np.float32)
        shifted = values - values.max(axis=1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        clipped: npt.NDArray[np.float64] = np.clip(shifted, math.log(_LEAST_PROBABILITY), 0)
        return clipped.astype(np.float32)


def build_ctcdecoder(
    labels: Sequence[str],
    kenlm_model_path: str | os.PathLike[str] | None = None,
    unigrams: Collection[str] | None = None,
    alpha: float = 0.5,
    beta: float = 1.5,
    unk_score_offset: float = -10.0,
    lm_score_boundary: bool = True,
) -> BeamSearchDecoderCTC:
    """A decoder over labels: the blank is ``""`` (or ``[PAD]``, ``<pad>``, ``_``), the space ``" "`` (or ``"|"``).

    Labels of which some begin with ``▁`` or ``##`` are word pieces. A blank that is missing is appended as last column.
    unigrams: the known words; None takes those of the language model, where its file carries them.
    Raises CompatError (a ValueError) for labels, files or settings that cannot be used.
    """
    return BeamSearchDecoderCTC(labels, kenlm_model_path, unigrams, alpha, beta, unk_score_offset, lm_score_boundary)


def _beams(found: Iterable[Hypothesis], beam_prune_logp: float) -> list[OutputBeamMPSafe]:
    beams: list[OutputBeamMPSafe] = []
    for h in found:
        if beams and h.score < beams[0][3] + beam_prune_logp:
            break
        frames = [(word.text, (word.start, word.end)) for word in h.words]
        beams.append((h.text, frames, h.acoustic_score, h.score))
    return beams


def _boosts(hotwords: Iterable[str] | None, weight: float) -> dict[str, float]:
    """As in pyctcdecode each word counts for itself, also those of a phrase."""
    return {word: weight for phrase in hotwords or () for word in phrase.split()}


def _refuse_state(lm_start_state: object) -> None:
    if lm_start_state is not None:
        raise CompatError("got an lm_start_state, wanted None: use BeamSearchDecoder.stream to go on with an utterance")


def _checked(logits: npt.ArrayLike, labels: int) -> npt.NDArray[np.float64]:
    try:
        values: npt.NDArray[Any] = np.asarray(logits, dtype=np.float64)
    except (ValueError, TypeError):
        raise CompatError("got something that is no array of numbers, wanted logits [frames, labels]") from None
    if values.ndim != 2 or values.shape[1] != labels:
        raise CompatError(
            f"got logits of shape {list(values.shape)}, wanted [frames, labels={labels}], the blank included"
        )
    bad = ~(values < np.inf).all(axis=1) | (values == -np.inf).all(axis=1)
    if bad.any():
        raise CompatError(f"frame {bad.argmax()} has a NaN or +inf or nothing but -inf, wanted finite logits")
    return values


def _normalise(labels: Sequence[str]) -> list[str]:
    """Labels in our terms: the blank is "", the space " ", a piece that begins a word begins with ▁."""
    if len(set(labels)) != len(labels):
        raise CompatError("got labels of which two are the same, wanted different ones")
    hashes = any(label.startswith("##") for label in labels)
    pieces = hashes or any(label.startswith(_BOUNDARY) for label in labels)
    if pieces and any(" " in label for label in labels):
        raise CompatError("got a label with a space among word pieces, wanted pieces only")
    out = [_piece(label) for label in labels] if hashes else list(labels)
    out = ["" if _BLANK.fullmatch(label) else label for label in out]
    if not pieces:
        out = _replace_first(out, "|", " ")
        out = _replace_first(out, "_", "")
    unknown = _BOUNDARY + "⁇" if pieces else "⁇"
    out = [unknown if _UNKNOWN.fullmatch(label) else label for label in out]
    return out if "" in out else [*out, ""]


def _piece(label: str) -> str:
    if label.startswith("##"):
        return label[2:]
    return label if not label or _SPECIAL.fullmatch(label) else _BOUNDARY + label


def _replace_first(labels: list[str], old: str, new: str) -> list[str]:
    if old not in labels or new in labels:
        return labels
    return [new if label == old else label for label in labels]
