"""Engines turn waveforms into log-probabilities; `choose` finds the one for a device and never takes another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asr_runtime.bundle import Bundle
from asr_runtime.errors import EngineError

DEVICES = ("auto", "cpu", "cuda", "tensorrt")


class Engine(Protocol):
    """What runs a bundle's model."""

    @property
    def device(self) -> str:
        """The device that really computes: cpu, cuda or tensorrt."""

    @property
    def batch_size(self) -> int:
        """How many windows of audio go through it together best."""

    @property
    def description(self) -> str:
        """Engine, version and setting for people, like `ONNX Runtime 1.32.0, fp32`."""

    def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Natural log-probabilities [frames, tokens] of each of a padded batch.

        `waveforms` is float32 [batch, samples] in -1…1, `lengths` int64 [batch] counts the samples of each that are
        not padding. Padding and neighbours change nothing beyond rounding; a bundle whose `padding` is False takes
        none. Several threads may call this at the same time. Raises EngineError.
        """


def choose(bundle: Bundle, device: str = "auto", *, precision: str | None = None) -> Engine:
    """The engine for `device` (auto, cpu, cuda or tensorrt); raises EngineError where that device cannot be had."""
    if device not in DEVICES:
        raise EngineError(f"device {device!r} is not known; give one of {', '.join(DEVICES)}.")
    try:
        return _engine(bundle, device, precision)
    except EngineError as error:
        if device in ("auto", "cpu"):
            raise
        raise EngineError(f"device {device} cannot be had: {error}") from error


def _engine(bundle: Bundle, device: str, precision: str | None) -> Engine:
    if device == "tensorrt":
        if not bundle.padding:
            raise EngineError(
                f"padding changes the results of {bundle.name}, and TensorRT's runner pads; use cuda or cpu"
            )
        from asr_runtime.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(bundle, precision=precision)
    if device == "cuda":
        from asr_runtime.engines.cuda import CudaEngine

        return CudaEngine(bundle, precision=precision)
    from asr_runtime.engines.onnx import OnnxEngine

    return OnnxEngine(bundle, precision=precision)


def whole_seconds(samples: int, rate: int) -> int:
    """`samples` rounded up to whole seconds: GPUs prepare for each new length, so there should be few."""
    return -(-samples // rate) * rate


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pad(waveforms: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Waveforms [n] of unequal length as float32 [batch, longest], zeros behind, and int64 lengths [batch]."""
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    padded = np.zeros((len(waveforms), int(lengths.max(initial=0))), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return padded, lengths
