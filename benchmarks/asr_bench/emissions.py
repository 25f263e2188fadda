"""Log-probabilities of many utterances with what was said: read from a file, or made by a bundle's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_bench.manifest import Utterance, read_manifest
from asr_runtime import engines
from asr_runtime.bundle import Bundle
from asr_runtime.decoder import Hypothesis
from asr_runtime.errors import DecoderError
from asr_runtime.recognizer import Recognizer, best_path, place

ENGLISH = (" ", *"abcdefghijklmnopqrstuvwxyz", "'", "")
FRAME_SECONDS = 0.04


@dataclass(frozen=True)
class Emissions:
    """Utterance i is `log_probs` [frames, tokens] from row offsets[i] to offsets[i + 1]; `references` are the texts.

    The columns stand in the order of DeepSpeech's alphabets, in which .scorer packages are made: the space, the
    letters, what else there is, the blank.
    """

    log_probs: NDArray[np.float32]
    offsets: NDArray[np.int64]
    references: tuple[str, ...]
    tokens: tuple[str, ...]
    frame_seconds: float

    @classmethod
    def ordered(
        cls, parts: Sequence[NDArray[np.float32]], references: Sequence[str], tokens: Sequence[str], seconds: float
    ) -> Emissions:
        """From one array [frames, tokens] an utterance, its columns in any order; raises DecoderError."""
        if not parts:
            raise DecoderError("no utterances are left; skip fewer.")
        if sorted(map(len, tokens))[:2] != [0, 1] or " " not in tokens:
            raise DecoderError(f"got tokens {list(tokens)}; the decoders are compared with a space and one blank.")
        order = sorted(range(len(tokens)), key=lambda place: _rank(tokens[place]))
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        rows = np.ascontiguousarray(np.concatenate(parts)[:, order], np.float32)
        return cls(rows, offsets, tuple(references), tuple(tokens[place] for place in order), seconds)

    @property
    def are_letters(self) -> bool:
        """Whether every token is a character, as other decoders want them; phonemes may be longer."""
        return max(map(len, self.tokens)) == 1

    def seconds(self, utterances: Sequence[int]) -> float:
        """Seconds of audio that some utterances last together."""
        return float(sum(self.offsets[index + 1] - self.offsets[index] for index in utterances)) * self.frame_seconds


def _rank(token: str) -> tuple[int, str]:
    return (0 if token == " " else 1 if token.isalpha() else 3 if token == "" else 2), token


def obtain(
    path: Path | None, bundle: Path | None, manifest: Path | None, chosen: slice
) -> tuple[Emissions, dict[str, Any]]:
    """Those `chosen` of a file's utterances, or of a manifest's as a bundle hears them, and what they are."""
    if (path is None) == (bundle is None) or (bundle is None) != (manifest is None):
        raise DecoderError("give log-probabilities either as --emissions, or as --bundle and --manifest.")
    if bundle and manifest:
        bundle = place(bundle)
        found = compute_emissions(bundle, read_manifest(manifest)[chosen])
        described = {"name": manifest.name, "bundle": Bundle.load(bundle).name}
    elif path:
        found, described = read_emissions(path, chosen), {"name": path.name}
    rest = {"skipped": chosen.start or 0, "tokens": list(found.tokens), "frame_seconds": found.frame_seconds}
    return found, {**described, **rest}


def read_emissions(path: Path, chosen: slice = slice(None)) -> Emissions:
    """The `chosen` utterances of an .npz file: emis [frames, tokens], offs [utterances + 1], refs [utterances].

    It may have `tokens` [tokens] (else it has 29: the space, a to z, the apostrophe, the blank) and `frame_seconds`
    (else 0.04). Raises DecoderError where it is none.
    """
    try:
        with np.load(path) as file:
            rows, offsets, references = file["emis"], file["offs"], [str(text) for text in file["refs"]]
            tokens = tuple(str(token) for token in file["tokens"]) if "tokens" in file else ENGLISH
            seconds = float(file["frame_seconds"]) if "frame_seconds" in file else FRAME_SECONDS
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = getattr(error, "strerror", None) or (error.args[0] if error.args else type(error).__name__)
        raise DecoderError(f"{path}: got no emissions ({reason}); wanted .npz with emis, offs and refs.") from None
    _check(path, rows, offsets, references, tokens)
    spans = list(pairwise(offsets))[chosen]
    parts = [rows[begin:end].astype(np.float32) for begin, end in spans]
    return Emissions.ordered(parts, references[chosen], tokens, seconds)


def _check(
    path: Path, rows: NDArray[np.floating], offsets: NDArray[np.integer], references: list[str], tokens: tuple[str, ...]
) -> None:
    if rows.ndim != 2 or rows.dtype.kind != "f" or rows.shape[1] != len(tokens):
        raise DecoderError(
            f"{path}: got emis {list(rows.shape)} of {rows.dtype}, wanted floats [frames, tokens={len(tokens)}]; "
            "name the columns in tokens where they are others."
        )
    rising = offsets.dtype.kind in "iu" and offsets.ndim == 1 and bool(np.all(np.diff(offsets.astype(np.int64)) > 0))
    if not rising or not references or len(offsets) != len(references) + 1 or offsets[0] < 0 or offsets[-1] > len(rows):
        raise DecoderError(
            f"{path}: got {len(references)} refs and offs {list(offsets.shape)}; wanted for each text its first row, "
            f"rising, and the end of the last, at most {len(rows)}."
        )


class _Kept:
    """A decoder that keeps the log-probabilities that it was given for the latest recording."""

    def __init__(self, bundle: Bundle) -> None:
        self._greedy = best_path(bundle)
        self._parts: list[NDArray[np.float32]] = []

    @property
    def log_probs(self) -> NDArray[np.float32]:
        return np.concatenate(self._parts)

    def stream(self) -> _Kept:
        self._parts = []
        return self

    def feed(self, log_probs: NDArray[np.float32]) -> None:
        self._parts.append(np.array(log_probs, np.float32))

    def finish(self) -> list[Hypothesis]:
        return self._greedy.decode(self.log_probs)


def compute_emissions(path: Path, utterances: Sequence[Utterance]) -> Emissions:
    """What the bundle's model hears in the recordings, on the processor; raises AsrError where it cannot be had."""
    bundle = Bundle.load(path)
    kept = _Kept(bundle)
    recognizer = Recognizer(bundle, engines.choose(bundle, "cpu"), kept, threads=engines.usable_cores())
    parts = []
    for utterance in utterances:
        recognizer.transcribe(utterance.audio)
        parts.append(kept.log_probs)
    return Emissions.ordered(parts, [utterance.text for utterance in utterances], bundle.tokens, bundle.frame_seconds)
