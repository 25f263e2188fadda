"""`asr-export verify`: does a bundle still say what its checkpoint does, in numbers, texts and error rates?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_export.compact import PRECISIONS, rounded
from asr_export.engine_proof import NotVerified, engine_here
from asr_export.importers.originals import original_of
from asr_export.proofs import (
    HALF_TOLERANCE,
    INTEGER_TOLERANCE,
    TOLERANCE,
    Figures,
    LogProbs,
    Recogniser,
    measure,
    reference,
)
from asr_export.signals import Limits, Samples
from asr_export.texts import read_texts
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle, BundleFile, update_bundle
from asr_runtime.engines import Engine
from asr_runtime.errors import ExportError
from asr_runtime.recognizer import beam_search, best_path, is_pronounced
from asr_training.checkpoint import Checkpoint, load_checkpoint
from asr_training.text import error_rates, rate_interval

WORSE = 0.01  # relative: what a word error rate may rise by; more fails where it is sure at 95 %
RECORDINGS = 8  # of the manifest that the log-probabilities are compared on, too

Decode = Callable[[LogProbs], str]


@dataclass(frozen=True)
class Texts:
    """Texts from the exported model and from the original, PyTorch with its full weights, by one way of decoding.

    Word error rates are shares, with 95 % intervals over resampled utterances (Bisani and Ney 2004); that of the
    change is of the two systems' rates on the same utterances.
    """

    utterances: int
    changed: tuple[str, ...]  # names of recordings whose text is another
    wer: float
    wer_interval: tuple[float, float]
    wer_pytorch: float
    wer_change: tuple[float, float] = (0.0, 0.0)
    original: str = "PyTorch"

    @property
    def passed(self) -> bool:
        """Whether the error rate may be that of PyTorch, or at most `WORSE` above it."""
        return self.wer_change[0] <= WORSE * self.wer_pytorch

    def __str__(self) -> str:
        low, high = self.wer_interval
        return (
            f"{len(self.changed)} of {self.utterances} texts differ from {self.original}'s, "
            f"WER {100 * self.wer:.2f} % ({100 * low:.2f}–{100 * high:.2f}), "
            f"{self.original}'s {100 * self.wer_pytorch:.2f} %"
        )


@dataclass(frozen=True)
class Verified:
    """What was measured of one model file."""

    file: BundleFile
    log_probs: Figures
    texts: dict[str, Texts]  # by way of decoding: greedy, beam search
    device: str = "cpu"
    engine: str = ""

    @property
    def passed(self) -> bool:
        """Whether log-probabilities and texts are those of the original, as far as the precision allows."""
        return self.log_probs.within_tolerance and all(texts.passed for texts in self.texts.values())

    def record(self) -> dict[str, Any]:
        """The figures as they stand in `bundle.json`."""
        return {
            "log_probs": {**self.log_probs.record(), "engine": self.engine, "device": self.device},
            **{name: dataclasses.asdict(texts) for name, texts in self.texts.items()},
        }


Results = list["Verified | NotVerified"]


def table(results: Sequence[Verified | NotVerified]) -> list[str]:
    """What was measured, for a screen: a line for each model file, and what could not run."""
    rows: list[tuple[str, ...]] = [("model", "precision", "device", "max", "mean", "alone", "allowed", "")]
    for each in results:
        if isinstance(each, Verified):
            figures = each.log_probs
            gaps = (figures.max_difference, figures.mean_difference, figures.max_difference_alone, figures.tolerance)
            verdict = "passed" if each.passed else "FAILED"
            rows.append(
                (each.file.path, str(each.file.precision), each.device, *(f"{gap:.1e}" for gap in gaps), verdict)
            )
        else:
            rows.append((each.file.path, str(each.file.precision), "-", "-", "-", "-", "-", "not verified here"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True)
class Spoken:
    """A recording with its text."""

    name: str
    samples: Samples
    text: str


def verify(path: Path, checkpoint_folder: Path, manifest: Path | None = None) -> Results:
    """Compare every model file of the bundle at `path` with the checkpoint; the figures go into the bundle's proofs.

    ONNX models run on the CPU, engines where there is a GPU that they fit. Of an imported bundle the checkpoint is what
    it was imported from. If one does not pass, the bundle is left as it is.

    Raises ExportError, BundleError, RecipeError for the checkpoint or manifest, AudioError, EngineError, DecoderError.
    """
    bundle = Bundle.load(path)
    if "import" in bundle.provenance:
        original = original_of(bundle, checkpoint_folder)
        spoken = read_spoken(manifest, bundle) if manifest else []
        results = [verify_import(bundle, file, original, spoken) for file in models(bundle)]
    else:
        checkpoint = load_checkpoint(checkpoint_folder)
        if list(bundle.tokens) != checkpoint.alphabet.tokens:
            raise ExportError(
                f"{path} has other tokens than {checkpoint_folder}; give the checkpoint it was made from."
            )
        spoken = read_spoken(manifest, bundle) if manifest else []
        results = [verify_model(bundle, file, checkpoint, spoken) for file in models(bundle)]
    measured = [each for each in results if isinstance(each, Verified)]
    if all(each.passed for each in measured):
        records = {each.file.path: {**bundle.proofs.get(each.file.path, {}), **each.record()} for each in measured}
        update_bundle(path, proofs=records)
    return results


def models(bundle: Bundle) -> list[BundleFile]:
    """The bundle's model files."""
    return [file for file in bundle.files if file.role == "model"]


def tolerance(file: BundleFile, device: str) -> float:
    """What log-probabilities of a model file may differ by; in 8 bits, the best tokens count."""
    if file.precision == "int8":
        return INTEGER_TOLERANCE
    return HALF_TOLERANCE if file.precision == "fp16" or device != "cpu" else TOLERANCE


def verify_import(
    bundle: Bundle, file: BundleFile, original: tuple[Recogniser, str, float], spoken: Sequence[Spoken]
) -> Verified | NotVerified:
    """One model file of an imported bundle against what it was made from."""
    model, name, noise = original
    here = engine_here(bundle, file)
    if isinstance(here, NotVerified):
        return here
    engine, limits = here
    allowed = tolerance(file, engine.device)
    recordings = [each.samples for each in spoken[:RECORDINGS]]
    figures = measure(engine, model, recordings, allowed, padding=bundle.padding, noise=noise, limits=limits)
    texts = compare_texts(bundle, engine, model, spoken, limits, name) if spoken else {}
    return Verified(file, dataclasses.replace(figures, original=name), texts, engine.device, engine.description)


def read_spoken(manifest: Path, bundle: Bundle) -> list[Spoken]:
    """The recordings and texts of a manifest or LibriSpeech folder."""
    utterances = read_texts(manifest, bundle)
    return [Spoken(each.audio.name, read_audio(each.audio, bundle.sample_rate), each.text) for each in utterances]


def verify_model(
    bundle: Bundle, file: BundleFile, checkpoint: Checkpoint, spoken: Sequence[Spoken]
) -> Verified | NotVerified:
    """One model file on the engine that `asr-run` takes, against PyTorch."""
    storages = {name: storage for storage, name in PRECISIONS.items()} | {"fp16": "fp32", "int8": "fp32"}
    if file.precision not in storages:
        raise ExportError(f"{file.path} has the precision {file.precision}, wanted {', '.join(storages)}.")
    here = engine_here(bundle, file)
    if isinstance(here, NotVerified):
        return here
    engine, limits = here
    model = rounded(checkpoint.model, storages[file.precision])
    recordings = [each.samples for each in spoken[:RECORDINGS]]
    figures = measure(engine, model, recordings, tolerance(file, engine.device), limits=limits)
    texts = compare_texts(bundle, engine, checkpoint.model, spoken, limits) if spoken else {}
    return Verified(file, figures, texts, engine.device, engine.description)


def compare_texts(
    bundle: Bundle,
    engine: Engine,
    model: Recogniser,
    spoken: Sequence[Spoken],
    limits: Limits | None,
    original: str = "PyTorch",
) -> dict[str, Texts]:
    """Texts and error rates of all recordings that the engine takes whole, greedy and by the bundle's beam search.

    Of a bundle whose tokens are pronunciations the beam search alone makes words.
    """
    spoken = [each for each in spoken if limits is None or len(each.samples) <= limits.longest]
    exported, trained = [], []
    for each in spoken:
        waveform, lengths = each.samples[None], [len(each.samples)]
        exported += engine.log_probs(waveform, np.array(lengths))
        trained += reference(model, waveform, lengths)
    best, search = best_path(bundle), beam_search(bundle, True, {})
    ways: dict[str, Decode] = {
        "greedy": lambda log_probs: best.decode(log_probs)[0].text,
        "beam_search": lambda log_probs: search.decode(log_probs)[0].text,
    }
    if is_pronounced(bundle):
        del ways["greedy"]
    return {
        name: compare([decode(each) for each in exported], [decode(each) for each in trained], spoken, original)
        for name, decode in ways.items()
    }


def compare(
    exported: Sequence[str], trained: Sequence[str], spoken: Sequence[Spoken], original: str = "PyTorch"
) -> Texts:
    """What differs, and the error rates of both."""
    texts = [each.text for each in spoken]
    return Texts(
        utterances=len(spoken),
        changed=tuple(each.name for each, a, b in zip(spoken, exported, trained, strict=True) if a != b),
        wer=error_rates(exported, texts)[0],
        wer_interval=interval(exported, texts),
        wer_pytorch=error_rates(trained, texts)[0],
        wer_change=change(exported, trained, texts),
        original=original,
    )


def interval(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of the word error rate."""
    return rate_interval(word_errors(hypotheses, references), [len(reference.split()) for reference in references])


def change(exported: Sequence[str], trained: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of what export adds to the word error rate; negative where it has fewer errors."""
    more = np.subtract(word_errors(exported, references), word_errors(trained, references))
    return rate_interval(more, [len(reference.split()) for reference in references])


def word_errors(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """The word errors of each utterance."""
    rates = [error_rates([mine], [yours])[0] for mine, yours in zip(hypotheses, references, strict=True)]
    words = [max(len(reference.split()), 1) for reference in references]
    return [rate * count for rate, count in zip(rates, words, strict=True)]
