"""Proof that an exported graph computes what the PyTorch model does; what fails it is not written.

Each batch goes through PyTorch once and through ONNX Runtime twice: as a batch of unequal lengths, whose padding
holds noise so that a leak shows, and each item alone without padding.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from asr_export.signals import Limits, Samples, Timing, alike, batches, noisy, padded
from asr_runtime.engines import Engine
from asr_runtime.engines.onnx import CRASHES_ON_HALF
from asr_runtime.errors import ExportError

TOLERANCE = 1e-4  # of natural log-probabilities, float32
INTEGER_TOLERANCE = 3.0  # where matrices are multiplied in 8 bits: finds faults only, the texts count
FRAMES_CHANGED = 0.1  # most, whose best token may be another in 8 bits; half of that on signals that are no speech
HALF_TOLERANCE = 2e-2  # the same where the encoder computes in float16
LARGEST_FILE = 2 << 30  # bytes of a model: protobuf's limit
LARGEST_HALF = 65504 / 2  # of a value in float16: louder input than the proof's must not make it infinite
# A model that was learnt by heart amplifies rounding, PyTorch's own beyond the tolerance: then two float32 programs
# that are both right differ by more, and so many times PyTorch's distance from float64 is allowed instead.
ROUNDINGS = 3.0
LARGEST_TOLERANCE = 1e-3

LogProbs = npt.NDArray[np.float32]  # [frames, tokens]


class Recogniser(Protocol):
    """A module that says what a graph has to compute: float32 or float64 [batch, samples] and int64 [batch] in,
    log-probabilities [batch, frames, tokens] and frames [batch] out.
    """

    @property
    def config(self) -> Timing: ...  # noqa: D102
    def double(self) -> Recogniser: ...  # noqa: D102
    def __call__(  # noqa: D102
        self, waveform: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass(frozen=True)
class Figures:
    """What was measured; differences are the largest and mean absolute ones of natural log-probabilities."""

    utterances: int
    audio_seconds: float
    shortest_samples: int
    longest_samples: int
    max_difference: float
    mean_difference: float
    max_difference_alone: float
    max_rounding: float = 0.0  # of PyTorch: float32 against float64 on the same batches
    largest_half: float = 0.0  # absolute value in float16 inside the graph, if there is any
    tolerance: float = TOLERANCE
    padding: bool = True  # whether batches were padded
    original: str = "PyTorch"
    frames_changed: float = 0.0  # share of frames whose most probable token is another
    frames_allowed: float = 1.0  # of them, where multiplying in 8 bits lets them decide

    @property
    def within_tolerance(self) -> bool:
        """Whether every difference is allowed and float16 has room; what is not a number is not."""
        near = self.max_difference <= self.tolerance and self.max_difference_alone <= self.tolerance
        return near and self.largest_half <= LARGEST_HALF and self.frames_changed <= self.frames_allowed

    def __str__(self) -> str:
        return (
            f"{self.utterances} utterances of {self.shortest_samples} to {self.longest_samples} samples "
            f"({self.audio_seconds:.0f} s) in {'padded batches' if self.padding else 'batches of one length'}: "
            f"log-probabilities differ from {self.original}'s by at most {self.max_difference:.2e} "
            f"(mean {self.mean_difference:.1e}), from each utterance's alone by at most "
            f"{self.max_difference_alone:.2e}; {self.tolerance:.2e} is allowed{self.reason()}"
        )

    def reason(self) -> str:
        """Why the tolerance is not float32's usual one, if it is not."""
        if self.frames_allowed < 1:
            return (
                f", of 8-bit arithmetic; {100 * self.frames_changed:.2f} % of frames have another best token, and "
                f"{100 * self.frames_allowed:.0f} % may"
            )
        if self.largest_half:
            return f", and {LARGEST_HALF:.0f} inside, where {self.largest_half:.0f} was the largest in float16"
        usual = self.tolerance == TOLERANCE
        if usual or self.tolerance == HALF_TOLERANCE:
            return ""
        return f", {ROUNDINGS:.0f} times what PyTorch's float32 is off from float64"

    def record(self) -> dict[str, Any]:
        """The figures as they stand in `bundle.json`, with the versions that computed them."""
        engine, reference = f"ONNX Runtime {onnxruntime.__version__}, CPU", f"PyTorch {torch.__version__}"
        return {**dataclasses.asdict(self), "engine": engine, "reference": reference}


@dataclass(frozen=True)
class Rounding:
    """What storing weights in fewer bits changed: differences of natural log-probabilities, and the share of frames
    whose most probable token is another.
    """

    max_difference: float
    mean_difference: float
    frames_changed: float

    def __str__(self) -> str:
        return (
            f"rounding the weights changed log-probabilities by at most {self.max_difference:.2e} "
            f"(mean {self.mean_difference:.1e}) and the best token of {100 * self.frames_changed:.2f} % of frames"
        )

    def record(self) -> dict[str, Any]:
        """The figures as they stand in `bundle.json`."""
        return dataclasses.asdict(self)


class Session:
    """An exported graph on ONNX Runtime's CPU provider."""

    def __init__(self, graph: bytes, half: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1  # more would spin on a busy machine
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=CRASHES_ON_HALF if half else None
        )

    def log_probs(self, waveform: Samples, lengths: npt.NDArray[np.int64]) -> list[LogProbs]:
        """Run [batch, samples]; return each item's own frames."""
        log_probs, frames = self.session.run(["log_probs", "frames"], {"waveform": waveform, "lengths": lengths})
        return [item[:count] for item, count in zip(log_probs, frames, strict=True)]


def prove(graph: onnx.ModelProto, model: Recogniser, recordings: Sequence[Samples] = ()) -> Figures:
    """Check `graph` against `model` on synthetic signals and on recordings at the model's rate.

    Raises ExportError when onnx's checker refuses the graph, when a number of frames differs, when any log-probability
    differs by more than the tolerance or is not a number, or when float16 has too little room.
    """
    content = check_structure(graph)
    exposed = half_exposed(graph)
    figures = measure(Session(content, bool(exposed)), model, recordings, HALF_TOLERANCE if exposed else TOLERANCE)
    if exposed:
        figures = dataclasses.replace(figures, largest_half=largest_half(exposed, model, recordings))
    if not figures.within_tolerance:
        raise ExportError(f"the exported graph failed its proof, so nothing was written: {figures}.")
    return figures


def check_structure(graph: onnx.ModelProto) -> bytes:
    """The graph as bytes, if onnx's checker and its strict shape inference take it."""
    refuse_too_large(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"the exported graph is not valid ONNX ({first}); nothing was written.") from error
    serialised: bytes = graph.SerializeToString()
    return serialised


def refuse_too_large(graph: onnx.ModelProto) -> None:
    """Raise ExportError for a graph that one file cannot hold; a bundle's models have their weights inside."""
    size = weight_bytes(graph)
    if size >= LARGEST_FILE:
        raise ExportError(
            f"the graph has {size / 2**30:.1f} GiB of weights, wanted less than 2 GiB, which is all that one ONNX file "
            "holds; store them in fewer bits or take a smaller model."
        )


def weight_bytes(graph: onnx.ModelProto) -> int:
    """The bytes of all weights, without making one string of them, which protobuf cannot beyond its limit."""
    return sum(len(each.raw_data) + 4 * len(each.float_data) for each in graph.graph.initializer)


def prove_integers(graph: onnx.ModelProto, model: Recogniser, recordings: Sequence[Samples] = ()) -> Rounding:
    """What multiplying in 8 bits changes; raises ExportError where that is more than rounding could."""
    session, gaps, changed = Session(check_structure(graph)), [], []
    for batch in batches(model.config, recordings):
        sizes, waveform = [len(item) for item in batch], padded(batch)
        expected = reference(model, waveform, sizes)
        for a, b in zip(session.log_probs(waveform, np.array(sizes)), expected, strict=True):
            gaps.append(difference(a, b).ravel())
            changed.append(a.argmax(1) != b.argmax(1))
    every, frames = np.concatenate(gaps), np.concatenate(changed)
    found = Rounding(float(every.max()), float(every.mean()), float(frames.mean()))
    if not (found.max_difference <= INTEGER_TOLERANCE and found.frames_changed <= FRAMES_CHANGED):
        raise ExportError(f"the model does not bear 8-bit arithmetic, so nothing was written: {found}.")
    return found


def half_exposed(graph: onnx.ModelProto) -> onnx.ModelProto | None:
    """The graph with every float16 value as an output, if it has any."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    half = onnx.TensorProto.FLOAT16
    values = [value for value in inferred.graph.value_info if value.type.tensor_type.elem_type == half]
    exposed = copy.deepcopy(graph)
    exposed.graph.output.extend(values)
    return exposed if values else None


def largest_half(exposed: onnx.ModelProto, model: Recogniser, recordings: Sequence[Samples] = ()) -> float:
    """The largest absolute float16 value in the graph over all batches; ONNX Runtime's CPU may skip some roundings,
    but it turns infinite what is too large for its type.
    """
    session, largest = Session(exposed.SerializeToString(), half=True).session, 0.0
    names = [output.name for output in exposed.graph.output][2:]
    for batch in batches(model.config, recordings):
        sizes = np.array([len(item) for item in batch])
        values = session.run(names, {"waveform": padded(batch), "lengths": sizes})
        largest = max(largest, *(float(np.abs(value).max(initial=0)) for value in values))
    return largest


def measure(
    session: Session | Engine,
    model: Recogniser,
    recordings: Sequence[Samples] = (),
    tolerance: float = TOLERANCE,
    *,
    padding: bool = True,
    noise: float = 0.0,
    limits: Limits | None = None,
) -> Figures:
    """Largest and mean differences over all batches; `tolerance` is what usual models are allowed.

    Without `padding` each item meets others of its length only. `noise` is the deviation of what is added to signals,
    `limits` are an engine's. With INTEGER_TOLERANCE the best tokens count.
    """
    against_model, against_alone, lengths = [], [], []
    changed: list[npt.NDArray[np.bool_]] = []
    exact, rounding = copy.deepcopy(model).double(), 0.0
    items = noisy(batches(model.config, recordings, limits), noise)
    for batch in items if padding else alike(items):
        sizes = [len(item) for item in batch]
        waveform = padded(batch, limits) if padding else np.stack(batch)
        exported = session.log_probs(waveform, np.array(sizes))
        alone = [session.log_probs(item[None], np.array([len(item)]))[0] for item in batch]
        expected = reference(model, waveform, sizes)
        against_model += [difference(a, b) for a, b in zip(exported, expected, strict=True)]
        changed += [a.argmax(1) != b.argmax(1) for a, b in zip(exported, expected, strict=True)]
        precise = reference(exact, waveform.astype(np.float64), sizes)
        rounding = max(rounding, *(float(difference(a, b).max()) for a, b in zip(expected, precise, strict=True)))
        against_alone += [difference(a, b) for a, b in zip(exported, alone, strict=True)]
        lengths += sizes
    every = np.concatenate([each.ravel() for each in against_model])
    return Figures(
        utterances=len(lengths),
        audio_seconds=round(sum(lengths) / model.config.sample_rate, 3),
        shortest_samples=min(lengths),
        longest_samples=max(lengths),
        max_difference=float(every.max()),
        mean_difference=float(every.mean()),
        max_difference_alone=float(np.concatenate([each.ravel() for each in against_alone]).max()),
        max_rounding=rounding,
        tolerance=max(tolerance, min(ROUNDINGS * rounding, LARGEST_TOLERANCE)),
        padding=padding,
        frames_changed=float(np.concatenate(changed).mean()),
        frames_allowed=FRAMES_CHANGED if tolerance == INTEGER_TOLERANCE else 1.0,
    )


def measure_rounding(model: Recogniser, rounded: Recogniser, recordings: Sequence[Samples] = ()) -> Rounding:
    """What rounding the weights of `model` changes, over the same batches."""
    gaps, changed = [], []
    for batch in batches(model.config, recordings):
        sizes, waveform = [len(item) for item in batch], padded(batch)
        for a, b in zip(reference(model, waveform, sizes), reference(rounded, waveform, sizes), strict=True):
            gaps.append(difference(a, b).ravel())
            changed.append(a.argmax(1) != b.argmax(1))
    every, frames = np.concatenate(gaps), np.concatenate(changed)
    return Rounding(float(every.max()), float(every.mean()), float(frames.mean()))


def difference(a: LogProbs, b: LogProbs) -> LogProbs:
    """Absolute differences; raises ExportError if the two do not have the same frames."""
    if a.shape != b.shape:
        raise ExportError(f"the exported graph gave {list(a.shape)} log-probabilities, wanted {list(b.shape)}.")
    gap: LogProbs = np.abs(a - b)
    return gap


def reference(model: Recogniser, waveform: npt.NDArray[Any], lengths: Sequence[int]) -> list[LogProbs]:
    """PyTorch's log-probabilities, each item's own frames; waveform and model are of one precision."""
    with torch.inference_mode():
        log_probs, frames = model(torch.from_numpy(waveform), torch.tensor(lengths))
    return [item[:count].numpy() for item, count in zip(log_probs, frames, strict=True)]
