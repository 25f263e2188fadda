"""A bundle's TensorRT engine on an NVIDIA GPU: preallocated memory, one stream, CUDA graphs where shapes repeat.

NVIDIA's modules are looked for only after the driver has answered, and the engine's version and compute capability are
compared before TensorRT sees the file: it dies on some mistakes and says little of others.
"""

from __future__ import annotations

import importlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_runtime.bundle import Bundle, BundleFile
from asr_runtime.engines import driver, whole_seconds
from asr_runtime.engines.onnx import check_batch, unpad
from asr_runtime.engines.stream import Buffer, Stream, cuda_runtime
from asr_runtime.engines.target import Profile, Target
from asr_runtime.errors import EngineError

MODULES = {"tensorrt": ("tensorrt", "tensorrt_lean"), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
INPUTS = {"waveform": np.float32, "lengths": np.int64}
OUTPUTS = {"log_probs": np.float32, "frames": np.int64}
KINDS: dict[str, Any] = {**INPUTS, **OUTPUTS}
GRAPHS = 32  # of a profile that are kept; each takes some memory of the GPU
REBUILD = "build one on this machine with `asr-export to-tensorrt BUNDLE`"

Fitting = tuple[BundleFile, Target, Any]  # the last is the module that runs it


class TensorRTEngine:
    """The bundle's engine that fits this machine's GPU and TensorRT; `precision` picks one of several.

    Batches larger than the engine's largest are split; audio longer than its longest is refused. Several threads may
    call, one computes at a time: a single stream keeps the GPU as busy as it can be, with batches.
    """

    device = "tensorrt"

    def __init__(self, bundle: Bundle, *, precision: str | None = None) -> None:
        gpu = driver.probe().gpus[0]
        file, self._target, module = fitting(bundle, precision, gpu.capability)
        runtime = cuda_runtime()
        self._tokens, self._rate = len(bundle.tokens), bundle.sample_rate
        self._log = log_of(module)
        self._runtime = module.Runtime(self._log)
        if self._target.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such engines carry code; a bundle is trusted
        self._engine = self._deserialised(bundle.path(file).read_bytes(), file.path)
        check_signature(module, self._engine, file.path, self._tokens)
        self._stream = Stream(runtime)
        weakref.finalize(self, self._stream.close)
        self._lanes = [self._lane(index, profile) for index, profile in enumerate(self._target.profiles)]
        self._lock = threading.Lock()
        self.batch_size = max(lane.profile.batch[1] for lane in self._lanes)
        self.description = f"TensorRT {module.__version__}, {file.precision}, {gpu.name}"

    def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """See `Engine.log_probs`."""
        check_batch(waveforms, lengths)
        results: list[NDArray[np.float32]] = []
        with self._lock:
            while len(results) < len(waveforms):
                rest = slice(len(results), None)
                lane = self._lane_for(len(waveforms) - len(results), waveforms.shape[1])
                part = slice(rest.start, rest.start + lane.profile.batch[2])
                results += lane.run(waveforms[part], lengths[part], self._tokens)
        return results

    def _deserialised(self, content: bytes, name: str) -> Any:
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"{name}: TensorRT does not take this engine ({self._log.last}); {REBUILD}.")
        if engine.num_optimization_profiles != len(self._target.profiles):
            raise EngineError(
                f"{name}: the engine has {engine.num_optimization_profiles} profiles where the bundle says "
                f"{len(self._target.profiles)}; {REBUILD}."
            )
        return engine

    def _lane(self, index: int, profile: Profile) -> Lane:
        context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"TensorRT has no memory for the engine ({self._log.last}); use a smaller profile.")
        return Lane(context, self._stream, self._log, index, profile, self._rate)

    def _lane_for(self, batch: int, samples: int) -> Lane:
        """The lane that takes the most of a batch and among those the smallest; raises EngineError if none does."""
        fitting = [lane for lane in self._lanes if samples <= lane.profile.samples[2]]
        if not fitting:
            longest = max(lane.profile.samples[2] for lane in self._lanes)
            raise EngineError(
                f"{samples / self._rate:.2f} s of audio are more than the {longest / self._rate:.2f} s that the engine "
                f"takes; give less at a time, or {REBUILD} and --max-seconds."
            )
        return min(fitting, key=lambda lane: (-min(batch, lane.profile.batch[2]), lane.profile.batch[2]))


class Lane:
    """One profile of an engine with its context, its memory for the largest batch, and its captured graphs."""

    def __init__(self, context: Any, stream: Stream, log: Any, index: int, profile: Profile, rate: int) -> None:
        self.profile = profile
        self._context, self._stream, self._log, self._rate = context, stream, log, rate
        self._graphs: OrderedDict[tuple[int, int], Any] = OrderedDict()  # by batch and samples; None: seen once
        self._capturable = True
        self._require(context.set_optimization_profile_async(index, stream.handle), "take its profile")
        stream.wait()
        shapes = self._shapes(profile.batch[2], profile.samples[2])
        self._buffers = {name: Buffer(stream, prod(shape), KINDS[name]) for name, shape in shapes.items()}
        for name, buffer in self._buffers.items():
            self._require(context.set_tensor_address(name, buffer.device), f"take memory for {name}")

    def run(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64], tokens: int) -> list[NDArray[np.float32]]:
        """See `Engine.log_probs`, for a batch within the profile."""
        batch, samples = len(waveforms), self._padded(waveforms.shape[1])
        shapes = self._shapes(batch, samples)
        waveform = self._buffers["waveform"].view((batch, samples))
        waveform[:, : waveforms.shape[1]] = waveforms
        waveform[:, waveforms.shape[1] :] = 0
        self._buffers["lengths"].view((batch,))[:] = lengths
        self._compute(shapes)
        log_probs, frames = (self._buffers[name].view(shapes[name]) for name in OUTPUTS)
        return [row.copy() for row in unpad(log_probs, frames, batch=batch, tokens=tokens)]

    def _padded(self, samples: int) -> int:
        """Whole seconds within the profile: few shapes, so that they repeat."""
        shortest, _, longest = self.profile.samples
        return min(max(whole_seconds(samples, self._rate), shortest), longest)

    def _shapes(self, batch: int, samples: int) -> dict[str, tuple[int, ...]]:
        """Set the inputs' shapes; return those of all tensors."""
        shapes: dict[str, tuple[int, ...]] = {"waveform": (batch, samples), "lengths": (batch,)}
        for name in INPUTS:
            self._require(self._context.set_input_shape(name, shapes[name]), f"take {name} {list(shapes[name])}")
        for name in OUTPUTS:
            shapes[name] = tuple(self._context.get_tensor_shape(name))
            self._require(min(shapes[name]) >= 0, f"tell the shape of {name}")
        return shapes

    def _compute(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """The first time a shape is computed as it is, the second time captured; from then on its graph is launched."""
        key = (shapes["waveform"][0], shapes["waveform"][1])
        repeated = key in self._graphs
        graph = self._graphs.pop(key, None)
        if graph is None and repeated and self._capturable:
            graph = self._captured(shapes)
        self._graphs[key] = graph
        if graph is None:
            self._enqueue(shapes)
        else:
            self._stream.launch(graph)
        self._stream.wait()
        if len(self._graphs) > GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self._stream.drop(oldest)

    def _captured(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """The work as a graph, or None: TensorRT captures no engine with a loop, so recurrent models run without."""
        try:
            return self._stream.capture(lambda: self._enqueue(shapes))
        except EngineError:
            self._capturable = False
            return None

    def _enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name in INPUTS:
            self._stream.upload(self._buffers[name], prod(shapes[name]))
        self._require(self._context.execute_async_v3(self._stream.handle), "run")
        for name in OUTPUTS:
            self._stream.download(self._buffers[name], prod(shapes[name]))

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise EngineError(f"the TensorRT engine does not {what} ({self._log.last}); {REBUILD}.")


def log_of(module: Any) -> Any:
    """A logger for TensorRT that prints nothing and keeps, as `last`, the latest error."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.last = "it says nothing more"

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.last = message.strip().split("\n")[0].rstrip(".")[:300]

    return Log()


def check_signature(module: Any, engine: Any, path: str, tokens: int) -> None:
    """Raise EngineError unless the engine has the tensors of every bundle's model, for so many tokens."""
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    kinds = {np.float32: module.DataType.FLOAT, np.int64: module.DataType.INT64}
    modes = {**dict.fromkeys(INPUTS, module.TensorIOMode.INPUT), **dict.fromkeys(OUTPUTS, module.TensorIOMode.OUTPUT)}
    found = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
    wanted = {name: (modes[name], kinds[kind]) for name, kind in KINDS.items()}
    if found != wanted or any(engine.is_shape_inference_io(name) for name in names):
        raise EngineError(f"{path}: the engine has the tensors {', '.join(names)}, not a bundle's model; {REBUILD}.")
    if engine.get_tensor_shape("log_probs")[2] != tokens:
        raise EngineError(f"{path}: the engine is for other tokens than the bundle's {tokens}; {REBUILD}.")


def fitting(bundle: Bundle, precision: str | None, capability: str) -> Fitting:
    """The first engine of the bundle for that compute capability and for a TensorRT that is installed here.

    Raises EngineError with what is there and what is here.
    """
    files = [file for file in bundle.files if file.engine == "tensorrt" and precision in (None, file.precision)]
    if not files:
        wanted = f" in {precision}" if precision else ""
        raise EngineError(f"the bundle {bundle.name} has no TensorRT engine{wanted}; {REBUILD}.")
    targets = [Target.read(file.path, file.target) for file in files]
    here: list[str] = []
    for file, target in zip(files, targets, strict=True):
        module = installed(target)
        version = getattr(module, "__version__", None)
        if version and target.fits_gpu(capability) and target.fits_version(version):
            return file, target, module
        here.append(f"{target.library} {version}" if version else f"no {target.library} that can be imported")
    raise EngineError(
        f"the bundle's engines are for {'; '.join(map(str, targets))}, and here are {', '.join(dict.fromkeys(here))} "
        f"and compute capability {capability}; {REBUILD}."
    )


def installed(target: Target) -> Any:
    """The module that runs engines of that kind, or None; the lean one runs version-compatible engines only."""
    names = MODULES[target.library]
    for name in names if target.version_compatible or target.library != "tensorrt" else names[:1]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):  # not installed, or without its libraries
            continue
    return None
