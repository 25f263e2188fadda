"""Confidences that say how often words are right: a line through the logarithms of their odds (Platt 1999)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr_runtime.decoder import Hypothesis

LEAST_SHARE = 0.002  # kLeastShare of the decoder: nearer to 0 or 1 confidences say no more
LEAST_WORDS = 200  # for two numbers that are to hold on other recordings
BINS = 10

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """`confidence_scale` and `confidence_offset` of BeamConfig, and what they do.

    The expected calibration errors (Naeini et al. 2015) are over all words: `before` of the decoder's own confidences,
    `after` with the line that the other half of the recordings gave.
    """

    scale: float
    offset: float
    words: int
    before: float
    after: float

    @property
    def settings(self) -> dict[str, float]:
        """As a bundle's decoder settings."""
        return {"confidence_scale": self.scale, "confidence_offset": self.offset}

    def record(self) -> dict[str, Any]:
        """What the bundle's provenance says of it."""
        return {"words": self.words, "expected_error_before": self.before, "expected_error_after": self.after}


def calibrate(heard: Sequence[Hypothesis], texts: Sequence[str]) -> Calibration | None:
    """The line for hypotheses with plain confidences against what is said; None for too few words to tell."""
    confidences = [np.array([word.confidence for word in best.words], np.float64) for best in heard]
    right = [right_words(text, best) for best, text in zip(heard, texts, strict=True)]
    nothing = np.empty(0)
    halves = [tuple(np.concatenate([*all_of[half::2], nothing]) for all_of in (confidences, right)) for half in (0, 1)]
    both = np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])
    if any(len(half[0]) < LEAST_WORDS / 2 or half[1].min() == half[1].max() for half in halves):
        return None
    scale, offset = fit(*both)
    if not scale > 0:  # they do not even order the words
        return None
    crossed = [apply(half[0], *fit(*other)) for half, other in (halves, halves[::-1])]
    return Calibration(
        scale=round(scale, 4),
        offset=round(offset, 4),
        words=len(both[0]),
        before=round(expected_error(*both), 4),
        after=round(expected_error(np.concatenate(crossed), both[1]), 4),
    )


def right_words(said: str, best: Hypothesis) -> Floats:
    """For each word that was heard, 1 where the alignment with the fewest errors has it, else 0."""
    words, heard = said.split(), [word.text for word in best.words]
    right = np.zeros(len(heard))
    for step in Levenshtein.opcodes(words, heard):
        if step.tag == "equal":
            right[step.dest_start : step.dest_end] = 1
    return right


def log_odds(confidences: Floats) -> Floats:
    """As far as they say anything."""
    bounded = np.clip(confidences, LEAST_SHARE, 1 - LEAST_SHARE)
    return np.asarray(np.log(bounded / (1 - bounded)))


def apply(confidences: Floats, scale: float, offset: float) -> Floats:
    """What the decoder makes of its confidences with these settings."""
    return np.asarray(1 / (1 + np.exp(-scale * log_odds(confidences) - offset)))


def fit(confidences: Floats, right: Floats) -> tuple[float, float]:
    """Scale and offset of the greatest likelihood, by Newton's method; targets are Platt's, so that both are finite."""
    counts = right.sum(), len(right) - right.sum()
    targets = np.where(right > 0, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    inputs = np.stack([log_odds(confidences), np.ones(len(right))], axis=1)
    line = np.zeros(2)
    for _ in range(50):
        likely = 1 / (1 + np.exp(-inputs @ line))
        curvature = (inputs * (likely * (1 - likely))[:, None]).T @ inputs + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, inputs.T @ (targets - likely))
        line += step / max(1.0, float(np.abs(step).max()))  # no longer than 1: far steps would overshoot
    return float(line[0]), float(line[1])


def expected_error(confidences: Floats, right: Floats) -> float:
    """Mean difference of confidence and share of right words in tenths of the range, weighted by words."""
    places = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = [np.abs((confidences - right)[places == place].sum()) for place in range(BINS)]
    return float(np.sum(gaps)) / max(1, len(right))
