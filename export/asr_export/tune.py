"""`asr-export tune`: the language model's weight and the word bonus that make the fewest word errors; confidences.

The model runs once over the recordings; its log-probabilities are then decoded with many settings. The search is a
grid beside the bundle's own settings, made finer around the best point twice, and steps from there to neighbours until
none is better (a pattern search: Hooke and Jeeves 1961), once more where another width of the search turns out better.
Error counts are steps, with plateaus and noise, so there is no derivative to follow, and the grid shows how flat the
optimum is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr_export.calibrate import Calibration, calibrate
from asr_export.texts import read_texts
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle
from asr_runtime.engines import choose
from asr_runtime.errors import ExportError
from asr_runtime.recognizer import beam_search
from asr_training.text import rate_interval

ALPHAS = (0.3, 0.6, 0.9, 1.2, 1.5)
BETAS = (-1.0, 0.0, 1.0, 2.0, 3.0)
GRID_STEPS = ALPHAS[1] - ALPHAS[0], BETAS[1] - BETAS[0]
REFINEMENTS = 2  # each halves the steps


@dataclass(frozen=True)
class Emissions:
    """What the model makes of the recordings, and what is said in them."""

    log_probs: list[np.ndarray]  # float32 [frames, tokens] each
    texts: list[str]


class Width(NamedTuple):
    """How much a beam search keeps: hypotheses, their distance to the best, and tokens; see `BeamConfig`."""

    beam_size: int
    beam_threshold: float
    token_floor: float


@dataclass(frozen=True)
class Point:
    """Settings of the beam search and what they made of the emissions."""

    alpha: float
    beta: float
    width: Width
    word_errors: tuple[int, ...]  # of each recording
    character_errors: int
    words: int

    @property
    def wer(self) -> float:
        """The word error rate, a share."""
        return sum(self.word_errors) / max(1, self.words)

    @property
    def rank(self) -> tuple[int, int, int, float, float]:
        """What the search makes small: word errors, then character errors, then what the search keeps."""
        return (
            sum(self.word_errors),
            self.character_errors,
            self.width.beam_size,
            self.width.beam_threshold,
            -self.width.token_floor,
        )

    @property
    def settings(self) -> dict[str, float]:
        """Of the beam search, by their names in `BeamConfig`."""
        return {"alpha": self.alpha, "beta": self.beta, **self.width._asdict()}


@dataclass(frozen=True)
class Tuned:
    """All points that were tried, the bundle's own first, the best, and what makes its confidences honest."""

    points: list[Point]
    best: Point
    interval: tuple[float, float]  # of the best word error rate, 95 %
    calibration: Calibration | None  # None where there are too few words

    @property
    def settings(self) -> dict[str, float]:
        """Of the beam search."""
        return {**self.best.settings, **(self.calibration.settings if self.calibration else {})}

    def record(self, manifest: Path) -> dict[str, Any]:
        """What the bundle's provenance says of it."""
        return {
            "manifest": manifest.name,
            "utterances": len(self.best.word_errors),
            "words": self.best.words,
            "wer": self.best.wer,
            "wer_interval": self.interval,
            "wer_before": self.points[0].wer,
            "settings_tried": len(self.points),
            **({"confidence": self.calibration.record()} if self.calibration else {}),
        }


def tune(bundle: Bundle, manifest: Path, widths: Mapping[str, Sequence[float]] = {}, threads: int = 1) -> Tuned:
    """Search alpha and beta for a bundle on recordings with text, then what the search keeps, and both again with that.

    `widths` has what to try for the fields of `Width`, by name, one after the other.

    Raises ExportError for a bundle without a language model, RecipeError for the manifest, AudioError and EngineError.
    """
    if bundle.find("language_model") is None:
        raise ExportError("the bundle has no language model, whose weight is to be found; add one: asr-export add-lm.")
    emissions = emit(bundle, manifest)
    own = beam_search(bundle, True, {}).config
    usual = Width(own.beam_size, own.beam_threshold, own.token_floor)
    seen: dict[tuple[float, float, Width], Point] = {}

    def tried(alpha: float, beta: float, width: Width) -> Point:
        key = round(alpha, 4), round(beta, 4), width
        if key not in seen:
            seen[key] = measure(bundle, emissions, *key, threads)
        return seen[key]

    best = search(tried(own.alpha, own.beta, usual), lambda alpha, beta: tried(alpha, beta, usual))
    for name, values in widths.items():
        others = [tried(best.alpha, best.beta, Width(**{**best.width._asdict(), name: value})) for value in values]
        best = least([best, *others])
    best = climb(best, lambda alpha, beta: tried(alpha, beta, best.width))
    words = [len(text.split()) for text in emissions.texts]
    plain = {"confidence_scale": 1.0, "confidence_offset": 0.0}
    heard = beam_search(bundle, True, {**best.settings, **plain}).decode_batch(emissions.log_probs, threads)
    calibration = calibrate([hypotheses[0] for hypotheses in heard], emissions.texts)
    return Tuned(list(seen.values()), best, rate_interval(best.word_errors, words), calibration)


def emit(bundle: Bundle, manifest: Path) -> Emissions:
    """Run the bundle's model over the recordings of a manifest or LibriSpeech folder."""
    utterances = read_texts(manifest, bundle)
    engine = choose(bundle, "cpu")
    log_probs = []
    for utterance in utterances:
        samples = read_audio(utterance.audio, bundle.sample_rate)
        log_probs += engine.log_probs(samples[None], np.array([len(samples)]))
    return Emissions(log_probs, [utterance.text for utterance in utterances])


def measure(bundle: Bundle, emissions: Emissions, alpha: float, beta: float, width: Width, threads: int) -> Point:
    """Decode all emissions with some settings."""
    search = beam_search(bundle, True, {"alpha": alpha, "beta": beta, **width._asdict()})
    texts = [found[0].text for found in search.decode_batch(emissions.log_probs, threads)]
    pairs = list(zip(texts, emissions.texts, strict=True))
    errors = tuple(Levenshtein.distance(text.split(), spoken.split()) for text, spoken in pairs)
    characters = sum(Levenshtein.distance(text, spoken) for text, spoken in pairs)
    return Point(alpha, beta, width, errors, characters, sum(len(spoken.split()) for spoken in emissions.texts))


Tried = Callable[[float, float], Point]


def search(own: Point, tried: Tried) -> Point:
    """The best of a point and a grid, of finer grids around it, and of what neighbours lead to from there."""
    best = least([own, *(tried(*pair) for pair in itertools.product(ALPHAS, BETAS))])
    for halvings in range(1, REFINEMENTS + 1):
        best = least([best, *neighbours(best, halvings, tried)])
    return climb(best, tried)


def climb(best: Point, tried: Tried) -> Point:
    """Go from a point to the best of its eight neighbours until none is better."""
    while (around := least([best, *neighbours(best, REFINEMENTS, tried)])) is not best:
        best = around
    return best


def neighbours(point: Point, halvings: int, tried: Tried) -> list[Point]:
    """The eight points around one, as far from it as the grid's steps halved so many times; alpha is never below 0."""
    alpha_step, beta_step = (step / 2**halvings for step in GRID_STEPS)
    alphas = [max(0.0, point.alpha + i * alpha_step) for i in (-1, 0, 1)]
    betas = [point.beta + i * beta_step for i in (-1, 0, 1)]
    return [tried(*pair) for pair in itertools.product(alphas, betas) if pair != (point.alpha, point.beta)]


def least(points: Sequence[Point]) -> Point:
    """The point with the fewest errors, the first of several."""
    return min(points, key=lambda point: point.rank)


# --- the picture -----------------------------------------------------------------------------------------------------

LEFT, TOP, WIDTH, HEIGHT = 60, 50, 520, 360
MOST_TICKS = 12


def surface(tuned: Tuned) -> str:
    """An SVG of the word error rates over alpha and beta: a disc for each, darker where lower, the best ringed in red.

    All are of the bundle's own width, so that they can be compared, but the best, which may be of another.
    """
    own = tuned.points[0].width
    there = [point for point in tuned.points if point.width == own and point != tuned.best]
    points = [*sorted(there, key=lambda point: -point.wer), tuned.best]
    low, high = min(point.wer for point in points), max(point.wer for point in points)
    across = Scale([point.alpha for point in points], ALPHAS[0], GRID_STEPS[0], LEFT, LEFT + WIDTH)
    up = Scale([point.beta for point in points], BETAS[0], GRID_STEPS[1], TOP + HEIGHT, TOP)

    def disc(point: Point) -> str:
        x, y = across.pixel(point.alpha), up.pixel(point.beta)
        share = (point.wer - low) / max(1e-9, high - low)
        red, green, blue = (round(a + (b - a) * share) for a, b in ((20, 235), (70, 240), (130, 245)))
        ring = "#d62728" if point is tuned.best else "#666"
        text = "#fff" if share < 0.5 else "#222"
        fill = f"rgb({red},{green},{blue})"
        return (
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="17" fill="{fill}" stroke="{ring}" stroke-width="2"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}" fill="{text}" text-anchor="middle">{100 * point.wer:.1f}</text>'
        )

    ticks = [
        f'<text x="{across.pixel(alpha):.0f}" y="{TOP + HEIGHT + 50}" text-anchor="middle">{alpha:g}</text>'
        for alpha in across.ticks
    ]
    ticks += [f'<text x="{LEFT - 40}" y="{up.pixel(beta) + 4:.0f}">{beta:g}</text>' for beta in up.ticks]
    title = f"word error rate in per cent, {len(tuned.best.word_errors)} recordings, {said(own)}, best ringed in red"
    if tuned.best.width != own:
        title += f": {said(tuned.best.width)}"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 500" font-family="sans-serif" font-size="12">
<rect width="640" height="500" fill="#fff"/>
<text x="14" y="13" font-size="10">{title}</text>
{chr(10).join(disc(point) for point in points)}
{chr(10).join(ticks)}
<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 75}" text-anchor="middle">alpha, the language model's weight</text>
<text x="14" y="{TOP - 21}">beta, the bonus per word</text>
</svg>
"""


def said(width: Width) -> str:
    """A width in words."""
    return f"beam {width.beam_size}, threshold {width.beam_threshold:g}, floor {width.token_floor:g}"


class Scale:
    """From values to pixels, with ticks at a first one and so many steps from it, fewer where there is no room."""

    def __init__(self, values: Sequence[float], first: float, step: float, low_pixel: int, high_pixel: int) -> None:
        self.low, self.high = min(values), max(values)
        self.low_pixel, self.high_pixel = low_pixel, high_pixel
        while self.high - self.low > MOST_TICKS * step:
            step *= 2
        numbers = range(math.ceil((self.low - first) / step - 1e-9), math.floor((self.high - first) / step + 1e-9) + 1)
        self.ticks = [round(first + number * step, 4) for number in numbers]

    def pixel(self, value: float) -> float:
        """Where a value stands."""
        share = (value - self.low) / max(1e-9, self.high - self.low)
        return self.low_pixel + (self.high_pixel - self.low_pixel) * share
