"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_runtime.bundle import Bundle, BundleFile
from asr_runtime.errors import BundleError, EngineError

# name -> element type and number of axes
INPUTS = {"waveform": ("tensor(float)", 2), "lengths": ("tensor(int64)", 1)}
OUTPUTS = {"log_probs": ("tensor(float)", 3), "frames": ("tensor(int64)", 1)}
# ONNX Runtime 1.32's CPU build dies on a two-dimensional convolution in float16 in this optimisation.
CRASHES_ON_HALF = ["NchwcTransformer"]
FATAL_ONLY = 4  # ONNX Runtime's log severity; whatever matters comes as an exception


class OnnxEngine:
    """A bundle's ONNX model in an ONNX Runtime session on the CPU, which computes on the thread that calls.

    Many batches on a thread each are faster than one batch on many threads, and do not slow down beside other
    programs. `precision` picks one of several models of the bundle; by default the first that is not in float16, which
    is for GPUs.
    """

    device = "cpu"
    batch_size = 1  # the least processor time for convolutions; recurrent models gain from 8

    def __init__(self, bundle: Bundle, *, precision: str | None = None) -> None:
        file = onnx_model(bundle, precision, half=False)
        self._tokens, self._padding = len(bundle.tokens), bundle.padding
        self._session, onnxruntime = new_session(bundle.path(file), file.precision == "fp16", ["CPUExecutionProvider"])
        check_model(self._session, bundle)
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {file.precision}"

    def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """See `Engine.log_probs`."""
        check_batch(waveforms, lengths, padding=self._padding)
        try:
            outputs = self._session.run(list(OUTPUTS), {"waveform": waveforms, "lengths": lengths})
        except Exception as error:  # ONNX Runtime's kinds of errors have no common one
            raise EngineError(f"ONNX Runtime failed on the model ({_first_line(error)}); export it again.") from error
        return unpad(*outputs, batch=len(waveforms), tokens=self._tokens)


def onnx_model(bundle: Bundle, precision: str | None, *, half: bool) -> BundleFile:
    """The ONNX model of that precision; without one given a model in float16 if `half`, else another, 8 bits last.

    Raises EngineError.
    """
    models = [file for file in bundle.files if file.role == "model"]
    fitting = [file for file in models if file.engine == "onnx" and precision in (None, file.precision)]
    if not fitting:
        raise EngineError(
            f"the bundle {bundle.name} has no ONNX model{f' in {precision}' if precision else ''}; "
            f"it has {', '.join(f'{file.engine} {file.precision}' for file in models) or 'none'}."
        )
    return min(fitting, key=lambda file: ((file.precision == "fp16") != half, file.precision == "int8"))


def check_batch(waveforms: NDArray[np.float32], lengths: NDArray[np.int64], *, padding: bool = True) -> None:
    """Raise EngineError unless a batch is what `Engine.log_probs` takes; the graph itself would not notice.

    `padding` is the bundle's.
    """
    if waveforms.dtype != np.float32 or waveforms.ndim != 2:
        raise EngineError(f"waveforms are {waveforms.dtype} {list(waveforms.shape)}; give float32 [batch, samples].")
    if lengths.dtype != np.int64 or lengths.shape != waveforms.shape[:1]:
        raise EngineError(f"lengths are {lengths.dtype} {list(lengths.shape)}; give int64 [{len(waveforms)}].")
    if len(lengths) and not (lengths.min() >= 0 and lengths.max() <= waveforms.shape[1]):
        raise EngineError(
            f"lengths go from {lengths.min()} to {lengths.max()} where there are {waveforms.shape[1]} samples; "
            "give each one's samples without padding."
        )
    if not padding and (lengths != waveforms.shape[1]).any():
        raise EngineError("this model's results change with padding; give recordings of one length in a batch.")


def unpad(
    log_probs: NDArray[np.float32], frames: NDArray[np.int64], *, batch: int, tokens: int
) -> list[NDArray[np.float32]]:
    """A model's outputs as one array [frames, tokens] for each; raises EngineError where they cannot be right."""
    if log_probs.ndim != 3 or (log_probs.shape[0], log_probs.shape[2]) != (batch, tokens) or frames.shape != (batch,):
        raise EngineError(
            f"the model gave log_probs {list(log_probs.shape)} and frames {list(frames.shape)} where "
            f"[{batch}, frames, {tokens}] and [{batch}] are wanted; export the bundle again."
        )
    if batch and not 0 <= frames.min() <= frames.max() <= log_probs.shape[1]:
        raise EngineError(f"the model gave {frames.max()} of {log_probs.shape[1]} frames; export the bundle again.")
    results = [row[:count] for row, count in zip(log_probs, frames, strict=True)]
    if any(np.isnan(row).any() for row in results):
        raise EngineError("the model gave log-probabilities that are no numbers (NaN); use another precision.")
    return results


def new_session(
    model: Path, half: bool, providers: Sequence[Any], prepare: Callable[[Any], None] = lambda onnxruntime: None
) -> tuple[Any, Any]:
    """A session for `model`, which computes in float16 if `half`, and the module onnxruntime, `prepare`d first.

    Raises EngineError.
    """
    try:
        import onnxruntime
    except ImportError as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        absent = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        fault = "is not installed" if absent else "cannot be imported"
        raise EngineError(f"ONNX Runtime {fault} ({error}); run `pip install 'asr-deploy[cpu]'`.") from error
    prepare(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    skipped = CRASHES_ON_HALF if half else None
    try:
        session = onnxruntime.InferenceSession(
            str(model), options, providers=list(providers), disabled_optimizers=skipped
        )
    except Exception as error:  # see above
        raise EngineError(f"{model.name}: ONNX Runtime cannot load this model ({_first_line(error)}).") from error
    return session, onnxruntime


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: compiled modules turn one during their import into ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def check_model(session: Any, bundle: Bundle) -> None:
    """Raise EngineError or BundleError unless a session has the signature and metadata that go with `bundle`."""
    _check_signature(session, bundle)
    _check_metadata(session, bundle)


def _check_signature(session: Any, bundle: Bundle) -> None:
    for kind, wanted, got in (("inputs", INPUTS, session.get_inputs()), ("outputs", OUTPUTS, session.get_outputs())):
        found = {item.name: (item.type, len(item.shape or [])) for item in got}
        if found != wanted:
            raise EngineError(f"the model of {bundle.name} has {kind} {found}, wanted {wanted}; export it again.")
    columns = next(item for item in session.get_outputs() if item.name == "log_probs").shape[2]
    if isinstance(columns, int) and columns != len(bundle.tokens):
        raise EngineError(
            f"the model of {bundle.name} gives log_probs for {columns} tokens where the bundle has "
            f"{len(bundle.tokens)}; export it again."
        )


def _check_metadata(session: Any, bundle: Bundle) -> None:
    """What the file says of itself, as asr-export writes it, is what the bundle says."""
    said = session.get_modelmeta().custom_metadata_map
    for name, wanted in (
        ("tokens", list(bundle.tokens)),
        ("sample_rate", bundle.sample_rate),
        ("frame_seconds", bundle.frame_seconds),
    ):
        if name in said and _json(said[name]) != wanted:
            raise BundleError(
                f"the bundle {bundle.name} has {name} {wanted!r:.80} where its model says {said[name]:.80}; "
                "export it again."
            )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300]
