"""`asr-run --verify`: does a bundle compute here what it computed where it was made?

A bundle carries a few seconds of audio, and what its reference model made of them: log-probabilities, the text of the
best path and of its beam search. They go through each model again, together with padding and each alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_runtime.audio import Samples
from asr_runtime.bundle import Bundle
from asr_runtime.engines import Engine, choose, pad
from asr_runtime.errors import BundleError
from asr_runtime.recognizer import beam_search, best_path

CHECK_FILE = "check.json"
MAX_CHECK_BYTES = 64 << 20
FULL_SCALE = 32768  # samples are 16-bit in the file
HALF_TOLERANCE = 2e-2  # of natural log-probabilities, in float16 and on GPUs, which multiply float32 as TF32


@dataclass(frozen=True)
class Utterance:
    """Samples [n] in -1…1, and what the reference made of them: log-probabilities [frames, tokens] and texts."""

    samples: Samples
    log_probs: NDArray[np.float32]
    greedy: str
    text: str

    def json(self) -> dict[str, Any]:
        """As it stands in the bundle's file."""
        whole = np.round(self.samples * FULL_SCALE).astype("<i2")
        return {
            "samples": base64.b64encode(whole.tobytes()).decode(),
            "log_probs": base64.b64encode(self.log_probs.astype("<f4").tobytes()).decode(),
            "greedy": self.greedy,
            "text": self.text,
        }


@dataclass(frozen=True)
class Check:
    """What a bundle carries to be verified: utterances, and the reference's precision and tolerance."""

    utterances: tuple[Utterance, ...]
    precision: str
    tolerance: float

    def content(self) -> bytes:
        """The bundle's file."""
        utterances = [each.json() for each in self.utterances]
        made = {"precision": self.precision, "tolerance": self.tolerance, "utterances": utterances}
        return json.dumps(made, ensure_ascii=False, indent=1).encode()


@dataclass(frozen=True)
class Outcome:
    """What one model gave: largest and mean differences of log-probabilities, and texts [expected, got] that changed.

    `tolerance` None: a model with 8-bit weights, of which only the texts of the best path count.
    """

    precision: str
    engine: str
    max_difference: float
    mean_difference: float
    tolerance: float | None
    greedy: tuple[tuple[str, str], ...]
    text: tuple[tuple[str, str], ...]
    utterances: int
    exact: bool

    @property
    def passed(self) -> bool:
        """Whether this machine computes what the reference did."""
        if self.tolerance is None:
            return 2 * len(self.greedy) <= self.utterances
        near = self.max_difference <= self.tolerance
        return near and not (self.exact and (self.greedy or self.text))

    def __str__(self) -> str:
        allowed = "texts count" if self.tolerance is None else f"{self.tolerance:.1e} allowed"
        return (
            f"{'passed' if self.passed else 'FAILED'}: {self.engine}: log-probabilities differ by at most "
            f"{self.max_difference:.1e} (mean {self.mean_difference:.1e}, {allowed}); of {self.utterances} texts "
            f"differ {len(self.greedy)} of the best path, {len(self.text)} of the beam search"
        )

    def lines(self) -> Iterator[str]:
        """What it gave in one line, and one for each text that is another."""
        yield str(self)
        for kind, changed in (("best path", self.greedy), ("beam search", self.text)):
            for expected, got in changed:
                yield f"  {kind}: expected {expected!r}, got {got!r}"


def all_passed(outcomes: Iterable[Outcome], say: Callable[[str], None]) -> bool:
    """Say what each outcome is as soon as it is there; whether all of them passed."""
    passed = True
    for outcome in outcomes:
        passed = passed and outcome.passed
        for line in outcome.lines():
            say(line)
    return passed


def verify(bundle: Bundle, device: str = "auto", *, precision: str | None = None) -> Iterator[Outcome]:
    """Replay the bundle's check on each of its models for `device`, or on the one in `precision`.

    Raises BundleError where the bundle carries none, and EngineError where the device cannot be had.
    """
    check = read_check(bundle)
    onnx = [file.precision for file in bundle.files if file.engine == "onnx"]
    precisions: list[str | None] = [precision] if precision or device == "tensorrt" or not onnx else [*onnx]
    for each in precisions:
        engine = choose(bundle, device, precision=each)
        ran = each or engine.description.split(", ")[1]
        yield compare(bundle, check, engine, ran)


def compare(bundle: Bundle, check: Check, engine: Engine, precision: str) -> Outcome:
    """One engine against the check: each utterance alone, and all together where the model takes padding."""
    samples = [each.samples for each in check.utterances]
    alone = [engine.log_probs(*pad([each]))[0] for each in samples]
    together = engine.log_probs(*pad(samples)) if bundle.padding else alone
    gaps = []
    for utterance, batched, single in zip(check.utterances, together, alone, strict=True):
        for got in (batched, single):
            same = got.shape == utterance.log_probs.shape
            gaps.append(np.abs(got - utterance.log_probs).ravel() if same else np.array([np.inf]))
    every = np.concatenate(gaps)
    best, search = best_path(bundle), beam_search(bundle, True, {})
    said = [(u.greedy, best.decode(got)[0].text) for u, got in zip(check.utterances, together, strict=True)]
    found = [(u.text, search.decode(got)[0].text) for u, got in zip(check.utterances, together, strict=True)]
    return Outcome(
        precision=precision,
        engine=f"{engine.device}, {engine.description}",
        max_difference=float(every.max()),
        mean_difference=float(every.mean()),
        tolerance=tolerance(check, precision, engine.device),
        greedy=tuple(pair for pair in said if pair[0] != pair[1]),
        text=tuple(pair for pair in found if pair[0] != pair[1]),
        utterances=len(samples),
        exact=engine.device == "cpu" and precision == check.precision,
    )


def tolerance(check: Check, precision: str, device: str) -> float | None:
    """What log-probabilities may differ by; None where only texts count: 8 bits round otherwise on each processor."""
    if "int8" in (precision, check.precision):
        return None
    if precision == check.precision:
        return check.tolerance if device == "cpu" else max(check.tolerance, HALF_TOLERANCE)
    return None if precision.endswith("w8") or check.precision.endswith("w8") else HALF_TOLERANCE


def read_check(bundle: Bundle) -> Check:
    """The check that a bundle carries; raises BundleError."""
    file = bundle.find("check")
    if file is None:
        raise BundleError(
            f"the bundle {bundle.name} carries nothing to verify it with; add it with asr-export add-check."
        )
    if file.bytes > MAX_CHECK_BYTES:
        raise BundleError(f"{file.path}: {file.bytes} bytes are no check of a bundle; export the bundle again.")
    try:
        said = json.loads(bundle.path(file).read_bytes())
        utterances = tuple(_utterance(each, len(bundle.tokens)) for each in said["utterances"])
        made = Check(utterances, str(said["precision"]), float(said["tolerance"]))
        if not utterances or not 0 < made.tolerance <= HALF_TOLERANCE:
            raise ValueError("no utterance, or a tolerance that makes no sense")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{file.path}: this is no check of a bundle ({error}); export the bundle again.") from error
    return made


def _utterance(said: Any, tokens: int) -> Utterance:
    samples = np.frombuffer(base64.b64decode(said["samples"], validate=True), "<i2").astype(np.float32)
    log_probs = np.frombuffer(base64.b64decode(said["log_probs"], validate=True), "<f4").reshape(-1, tokens)
    if not isinstance(said["greedy"], str) or not isinstance(said["text"], str) or np.isnan(log_probs).any():
        raise ValueError("texts or log-probabilities are none")
    return Utterance(samples / np.float32(FULL_SCALE), log_probs.astype(np.float32), said["greedy"], said["text"])
