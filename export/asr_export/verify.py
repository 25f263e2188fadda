"""`asr-export verify`: does a bundle still say what its checkpoint does, in numbers, texts and error rates?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_export.compact import PRECISIONS, rounded
from asr_export.importers.verify import verify_import
from asr_export.proofs import HALF_TOLERANCE, TOLERANCE, Figures, LogProbs, Samples, measure, reference
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle, BundleFile, update_bundle
from asr_runtime.engines import Engine, choose
from asr_runtime.errors import ExportError
from asr_runtime.recognizer import beam_search
from asr_training.checkpoint import Checkpoint, load_checkpoint
from asr_training.data import read_source
from asr_training.recipe import Data, Source
from asr_training.text import error_rates, rate_interval

RECORDINGS = 8  # of the manifest that the log-probabilities are compared on, too

Decode = Callable[[LogProbs], str]


@dataclass(frozen=True)
class Texts:
    """Texts from the exported model and from PyTorch with its full weights, by one way of decoding.

    Word error rates are shares, with the 95 % interval over resampled utterances (Bisani and Ney 2004).
    """

    utterances: int
    changed: tuple[str, ...]  # names of recordings whose text is another
    wer: float
    wer_interval: tuple[float, float]
    wer_pytorch: float

    def __str__(self) -> str:
        low, high = self.wer_interval
        return (
            f"{len(self.changed)} of {self.utterances} texts differ from PyTorch's, "
            f"WER {100 * self.wer:.2f} % ({100 * low:.2f}–{100 * high:.2f}), PyTorch's {100 * self.wer_pytorch:.2f} %"
        )


@dataclass(frozen=True)
class Verified:
    """What was measured of one model file."""

    file: BundleFile
    log_probs: Figures
    texts: dict[str, Texts]  # by way of decoding: greedy, beam search

    def record(self) -> dict[str, Any]:
        """The figures as they stand in `bundle.json`."""
        return {
            "log_probs": self.log_probs.record(),
            **{name: dataclasses.asdict(texts) for name, texts in self.texts.items()},
        }


@dataclass(frozen=True)
class Spoken:
    """A recording with its text."""

    name: str
    samples: Samples
    text: str


def verify(path: Path, checkpoint_folder: Path, manifest: Path | None = None) -> list[Verified]:
    """Compare every ONNX model of the bundle at `path` with the checkpoint; the figures go into the bundle's proofs.

    Of an imported bundle the checkpoint is what it was imported from.

    Raises ExportError if log-probabilities differ by more than the tolerance (then the bundle is left as it is),
    BundleError, RecipeError for the checkpoint or manifest, AudioError, EngineError and DecoderError.
    """
    bundle = Bundle.load(path)
    if "import" in bundle.provenance:
        if manifest is not None:
            raise ExportError(f"{path} is an import, whose texts are not compared; leave --manifest out.")
        return [Verified(file, figures, {}) for file, figures in verify_import(path, bundle, checkpoint_folder)]
    checkpoint = load_checkpoint(checkpoint_folder)
    if list(bundle.tokens) != checkpoint.alphabet.tokens:
        raise ExportError(f"{path} has other tokens than {checkpoint_folder}; give the checkpoint it was made from.")
    spoken = read_spoken(manifest, checkpoint) if manifest else []
    models = [file for file in bundle.files if file.engine == "onnx"]
    results = [verify_model(bundle, file, checkpoint, spoken) for file in models]
    for result in results:
        if not result.log_probs.within_tolerance:
            raise ExportError(f"{result.file.path} is not what the checkpoint computes: {result.log_probs}.")
    proofs = {each.file.path: {**bundle.proofs.get(each.file.path, {}), **each.record()} for each in results}
    update_bundle(path, proofs=proofs)
    return results


def read_spoken(manifest: Path, checkpoint: Checkpoint) -> list[Spoken]:
    """The recordings and texts of a manifest or LibriSpeech folder."""
    source = Source(str(manifest))
    data = Data(train=(), validation=(source,), alphabet=checkpoint.alphabet.characters)
    rate = checkpoint.features.sample_rate
    utterances = read_source(source, data, checkpoint.alphabet)
    return [Spoken(each.audio.name, read_audio(each.audio, rate), each.text) for each in utterances]


def verify_model(bundle: Bundle, file: BundleFile, checkpoint: Checkpoint, spoken: Sequence[Spoken]) -> Verified:
    """One model file on the engine that `asr-run` takes, against PyTorch."""
    engine = choose(bundle, "cpu", precision=file.precision)
    storages = {name: storage for storage, name in PRECISIONS.items()} | {"fp16": "fp32"}
    if file.precision not in storages:
        raise ExportError(f"{file.path} has the precision {file.precision}, wanted {', '.join(storages)}.")
    model = rounded(checkpoint.model, storages[file.precision])
    tolerance = HALF_TOLERANCE if file.precision == "fp16" else TOLERANCE
    figures = measure(engine, model, [each.samples for each in spoken[:RECORDINGS]], tolerance)
    return Verified(file, figures, compare_texts(bundle, engine, checkpoint, spoken) if spoken else {})


def compare_texts(bundle: Bundle, engine: Engine, checkpoint: Checkpoint, spoken: Sequence[Spoken]) -> dict[str, Texts]:
    """Texts and error rates of all recordings, greedy and by the bundle's beam search."""
    exported, trained = [], []
    for each in spoken:
        waveform, lengths = each.samples[None], [len(each.samples)]
        exported += engine.log_probs(waveform, np.array(lengths))
        trained += reference(checkpoint.model, waveform, lengths)
    search = beam_search(bundle, True, {})
    ways: dict[str, Decode] = {
        "greedy": checkpoint.alphabet.greedy,
        "beam_search": lambda log_probs: search.decode(log_probs)[0].text,
    }
    return {
        name: compare([decode(each) for each in exported], [decode(each) for each in trained], spoken)
        for name, decode in ways.items()
    }


def compare(exported: Sequence[str], trained: Sequence[str], spoken: Sequence[Spoken]) -> Texts:
    """What differs, and the error rates of both."""
    texts = [each.text for each in spoken]
    return Texts(
        utterances=len(spoken),
        changed=tuple(each.name for each, a, b in zip(spoken, exported, trained, strict=True) if a != b),
        wer=error_rates(exported, texts)[0],
        wer_interval=interval(exported, texts),
        wer_pytorch=error_rates(trained, texts)[0],
    )


def interval(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of the word error rate."""
    words = [len(reference.split()) for reference in references]
    rates = [error_rates([mine], [yours])[0] for mine, yours in zip(hypotheses, references, strict=True)]
    return rate_interval([rate * max(count, 1) for rate, count in zip(rates, words, strict=True)], words)
