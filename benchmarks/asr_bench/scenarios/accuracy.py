"""How many words and characters are right, how sure that figure is, and whether confidences keep their promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from asr_bench.manifest import Utterance, normalise
from asr_runtime.errors import AsrError
from asr_runtime.recognizer import Recognizer
from asr_runtime.transcript import Transcript

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 100
BINS = 10


@dataclass(frozen=True)
class Errors:
    """One utterance's errors and lengths, in words and characters; `words` are (confidence, right) of each word."""

    utterance: Utterance
    text: str
    word_errors: int
    words: int
    character_errors: int
    characters: int
    confidences: tuple[tuple[float, bool], ...]

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
        }


def recognise(recognizer: Recognizer, utterances: Sequence[Utterance]) -> Iterator[Errors]:
    """The errors of each utterance; a recording that cannot be read ends the measurement with its AsrError."""
    results = recognizer.results(utterance.audio for utterance in utterances)
    for utterance, result in zip(utterances, results, strict=True):
        if isinstance(result, AsrError):
            raise result
        yield count_errors(utterance, result)


def count_errors(utterance: Utterance, transcript: Transcript) -> Errors:
    """Compare a transcript with what was said, by words and by characters."""
    text = normalise(transcript.text)
    words = jiwer.process_words([utterance.text], [text])
    characters = jiwer.process_characters([utterance.text], [text])
    right = {
        index
        for chunk in words.alignments[0]
        if chunk.type == "equal"
        for index in range(chunk.hyp_start_idx, chunk.hyp_end_idx)
    }
    # Normalising changes the count of words only for alphabets beyond this measure; then none are paired.
    same = len(text.split()) == len(transcript.words)
    return Errors(
        utterance,
        text,
        words.substitutions + words.deletions + words.insertions,
        len(utterance.text.split()),
        characters.substitutions + characters.deletions + characters.insertions,
        len(utterance.text),
        tuple((word.confidence, index in right) for index, word in enumerate(transcript.words)) if same else (),
    )


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
    """95 % of rates when the utterances are drawn again with replacement (Bisani and Ney 2004)."""
    random = np.random.default_rng(0)
    rates = []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        # How often each utterance is drawn, [resamples, utterances].
        drawn = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES_AT_ONCE)
        wrong, of = (drawn @ counts).T
        rates.append(100 * wrong / np.maximum(1, of))
    return [round(float(value), 2) for value in np.quantile(np.concatenate(rates), [0.025, 0.975])]


def reliability(pairs: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Mean confidence and share of right words in tenths of the range, and their mean difference weighted by words.

    The last is the expected calibration error (Naeini et al. 2015).
    """
    if not pairs:
        return {"words": 0, "expected_calibration_error": None, "bins": []}
    confidence, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], float)
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for place in np.unique(places):
        inside = places == place
        mean, share = float(confidence[inside].mean()), float(right[inside].mean())
        bins.append({"words": int(inside.sum()), "confidence": round(mean, 4), "right": round(share, 4)})
        error += inside.mean() * abs(mean - share)
    return {"words": len(pairs), "expected_calibration_error": round(float(error), 4), "bins": bins}
