"""How many words and characters are right, how sure that figure is, and whether confidences keep their promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr_bench.manifest import Normaliser, Utterance, normalise
from asr_export.calibrate import BINS, expected_error
from asr_runtime.errors import AsrError
from asr_runtime.recognizer import Recognizer
from asr_runtime.transcript import Transcript
from asr_training.text import rate_interval


@dataclass(frozen=True)
class Errors:
    """One utterance's errors and lengths, in words and characters.

    `alignment` pairs the words of reference and text, None where one has none; `confidences` has for each word of the
    text how sure the recogniser is, and whether it is right.
    """

    utterance: Utterance
    text: str
    word_errors: int
    words: int
    character_errors: int
    characters: int
    alignment: tuple[tuple[str | None, str | None], ...]
    confidences: tuple[tuple[float, bool], ...]

    def counts(self) -> list[Any]:
        """Name, word errors, words, character errors, characters: what a comparison by utterances needs."""
        return [self.utterance.name, self.word_errors, self.words, self.character_errors, self.characters]

    def row(self) -> dict[str, Any]:
        """For the JSON-lines file."""
        return {
            "audio": self.utterance.name,
            "source": self.utterance.source,
            "reference": self.utterance.text,
            "text": self.text,
            "word_errors": self.word_errors,
            "words": self.words,
            "character_errors": self.character_errors,
            "characters": self.characters,
            "alignment": self.alignment,
        }


def recognise(
    recognizer: Recognizer, utterances: Sequence[Utterance], normaliser: Normaliser = normalise
) -> Iterator[Errors]:
    """The errors of each utterance; a recording that cannot be read ends the measurement with its AsrError."""
    results = recognizer.results(utterance.audio for utterance in utterances)
    for utterance, result in zip(utterances, results, strict=True):
        if isinstance(result, AsrError):
            raise result
        yield count_errors(utterance, result, normaliser)


def count_errors(utterance: Utterance, transcript: Transcript, normaliser: Normaliser = normalise) -> Errors:
    """Compare a transcript with what was said, by words and by characters."""
    errors = compare(utterance, normaliser(transcript.text))
    right = [said == heard for said, heard in errors.alignment if heard is not None]
    # A normaliser may make two words of one, or another number of words of "42"; then none are paired.
    if len(right) != len(transcript.words):
        return errors
    pairs = zip(transcript.words, right, strict=True)
    return replace(errors, confidences=tuple((word.confidence, same) for word, same in pairs))


def compare(utterance: Utterance, text: str) -> Errors:
    """What is wrong in a normalised text."""
    alignment = tuple(align(utterance.text.split(), text.split()))
    return Errors(
        utterance,
        text,
        word_errors=sum(said != heard for said, heard in alignment),
        words=len(utterance.text.split()),
        character_errors=Levenshtein.distance(utterance.text, text),
        characters=len(utterance.text),
        alignment=alignment,
        confidences=(),
    )


def align(said: Sequence[str], heard: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Pair two texts' words with the fewest errors (Levenshtein 1966)."""
    for step in Levenshtein.opcodes(said, heard):
        words, others = said[step.src_start : step.src_end], heard[step.dest_start : step.dest_end]
        yield from zip_longest(words, others)


def text_rates(utterances: Sequence[Utterance], texts: Sequence[str]) -> dict[str, Any]:
    """Error rates of texts as a recogniser gave them."""
    return rate([compare(each, normalise(text)) for each, text in zip(utterances, texts, strict=True)])


def summary(errors: Sequence[Errors]) -> dict[str, Any]:
    """Error rates over all utterances and for each source, and the reliability of the confidences."""
    sources = sorted({error.utterance.source for error in errors} - {""})
    rates = {"all": rate(errors)}
    for source in sources:
        rates[source] = rate([error for error in errors if error.utterance.source == source])
    return {"rates": rates, "confidence": reliability([pair for error in errors for pair in error.confidences])}


def rate(errors: Sequence[Errors]) -> dict[str, Any]:
    """Word and character error rates in percent, each with its 95 % interval over resampled utterances."""
    words = np.array([(error.word_errors, error.words) for error in errors])
    characters = np.array([(error.character_errors, error.characters) for error in errors])
    return {
        "utterances": len(errors),
        "words": int(words[:, 1].sum()),
        "wer": _percent(words),
        "wer_interval": _interval(words),
        "cer": _percent(characters),
        "cer_interval": _interval(characters),
    }


def _percent(counts: NDArray[np.int64]) -> float:
    wrong, of = counts.sum(axis=0)
    return round(100 * float(wrong) / max(1, int(of)), 2)


def _interval(counts: NDArray[np.int64]) -> list[float]:
    return [round(100 * bound, 2) for bound in rate_interval(counts[:, 0], counts[:, 1])]


def reliability(pairs: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Mean confidence and share of right words in tenths of the range, and their mean difference weighted by words.

    The last is the expected calibration error (Naeini et al. 2015).
    """
    if not pairs:
        return {"words": 0, "expected_calibration_error": None, "bins": []}
    confidence, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], float)
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in np.unique(places):
        inside = places == place
        mean, share = float(confidence[inside].mean()), float(right[inside].mean())
        bins.append({"words": int(inside.sum()), "confidence": round(mean, 4), "right": round(share, 4)})
    error = expected_error(confidence, right)
    return {"words": len(pairs), "expected_calibration_error": round(error, 4), "bins": bins}
