"""`asr-export tune`: the language model's weight and the word bonus that make the fewest word errors; confidences.

The model runs once over the recordings; its log-probabilities are then decoded with many settings. The search is a
grid, made finer around its best point twice, and steps from there to neighbours until none is better (a pattern search:
Hooke and Jeeves 1961), once more where another width of the search turns out better. Error counts are steps, with
plateaus and noise, so there is no derivative to follow, and the grid shows how flat the optimum is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
REFINEMENTS = 2  # each halves the steps
ALPHA_STEP, BETA_STEP = 0.075, 0.25  # the last ones


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

    tried(own.alpha, own.beta, usual)
    best = search(lambda alpha, beta: tried(alpha, beta, usual))
    for name, values in widths.items():
        others = [tried(best.alpha, best.beta, Width(**{**best.width._asdict(), name: value})) for value in values]
        best = min([best, *others], key=lambda point: point.rank)
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


def search(tried: Callable[[float, float], Point]) -> Point:
    """The best point of a grid over alpha and beta that gets finer around its best."""
    best = min((tried(*pair) for pair in itertools.product(ALPHAS, BETAS)), key=lambda point: point.rank)
    alpha_step, beta_step = ALPHAS[1] - ALPHAS[0], BETAS[1] - BETAS[0]
    for _ in range(REFINEMENTS):
        alpha_step, beta_step = alpha_step / 2, beta_step / 2
        alphas = [max(0.0, best.alpha + i * alpha_step) for i in (-1, 0, 1)]
        betas = [best.beta + i * beta_step for i in (-1, 0, 1)]
        best = min((tried(*pair) for pair in itertools.product(alphas, betas)), key=lambda point: point.rank)
    return climb(best, tried)


def climb(best: Point, tried: Callable[[float, float], Point]) -> Point:
    """Go from a point to the best of its eight neighbours until none is better."""
    while True:
        alphas = [max(0.0, best.alpha + i * ALPHA_STEP) for i in (-1, 0, 1)]
        betas = [best.beta + i * BETA_STEP for i in (-1, 0, 1)]
        around = min((tried(*pair) for pair in itertools.product(alphas, betas)), key=lambda point: point.rank)
        if around.rank >= best.rank:
            return best
        best = around


# --- the picture -----------------------------------------------------------------------------------------------------

LEFT, TOP, WIDTH, HEIGHT = 60, 50, 520, 360


def surface(tuned: Tuned) -> str:
    """An SVG of the word error rates over alpha and beta: a disc for each, of its best width, darker where lower."""
    best: dict[tuple[float, float], Point] = {}
    for point in sorted(tuned.points, key=lambda point: point.rank):
        best.setdefault((point.alpha, point.beta), point)
    points = list(best.values())
    low, high = min(point.wer for point in points), max(point.wer for point in points)
    alphas, betas = [point.alpha for point in points], [point.beta for point in points]

    def place(point: Point) -> tuple[float, float]:
        x = LEFT + WIDTH * (point.alpha - min(alphas)) / max(1e-9, max(alphas) - min(alphas))
        return x, TOP + HEIGHT * (max(betas) - point.beta) / max(1e-9, max(betas) - min(betas))

    def disc(point: Point) -> str:
        x, y = place(point)
        share = (point.wer - low) / max(1e-9, high - low)
        red, green, blue = (round(a + (b - a) * share) for a, b in ((20, 235), (70, 240), (130, 245)))
        ring = "#d62728" if (point.alpha, point.beta) == (tuned.best.alpha, tuned.best.beta) else "#666"
        text = "#fff" if share < 0.5 else "#222"
        fill = f"rgb({red},{green},{blue})"
        return (
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="17" fill="{fill}" stroke="{ring}" stroke-width="2"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}" fill="{text}" text-anchor="middle">{100 * point.wer:.1f}</text>'
        )

    discs = "\n".join(disc(point) for point in sorted(points, key=lambda point: -point.wer))
    ticks = [
        f'<text x="{place(replace(points[0], alpha=alpha))[0]:.0f}" y="{TOP + HEIGHT + 50}" text-anchor="middle">'
        f"{alpha:g}</text>"
        for alpha in ALPHAS
    ]
    ticks += [
        f'<text x="{LEFT - 40}" y="{place(replace(points[0], beta=beta))[1] + 4:.0f}">{beta:g}</text>' for beta in BETAS
    ]
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 500" font-family="sans-serif" font-size="12">
<rect width="640" height="500" fill="#fff"/>
<text x="14" y="13">word error rate in per cent, {len(tuned.best.word_errors)} recordings, best ringed in red</text>
{discs}
{chr(10).join(ticks)}
<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 75}" text-anchor="middle">alpha, the language model's weight</text>
<text x="14" y="{TOP - 21}">beta, the bonus per word</text>
</svg>
"""
