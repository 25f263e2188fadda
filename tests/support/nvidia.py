"""NVIDIA's Python modules as they really are, for machines without a GPU.

`tests/gpu_signatures` holds the classes, signatures and names of enumerations that `scripts/read-gpu-signatures` read
from the wheels. What is here lets a program use exactly those, of one version: another name, a wrong number of
arguments, or writing what is only readable fails as it would there. Behind them memory, streams and graphs work on the
host, and an engine computes a bundle's ONNX model, so that results are real numbers.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDER = Path(__file__).parents[1] / "gpu_signatures"
FULL = ["tensorrt-10.3.0", "tensorrt-10.16.1", "tensorrt-11.4.0"]
OUT_OF_MEMORY = 2


def signatures(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())  # type: ignore[no-any-return]


def parameters(signature: str) -> list[str]:
    """The names of a signature's parameters, without self, those with a default marked by a trailing =."""
    inside, depth, parts = signature[signature.index("(") + 1 :], 0, [""]
    for letter in inside:
        depth += (letter in "([<{") - (letter in ")]>}")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    named = [part.split("=")[0].split(":")[0].split()[-1] + "=" * ("=" in part) for part in parts if part.strip()]
    return [name for name in named if name != "self"]


def accepts(signature: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    names = parameters(signature)
    plain = [name.rstrip("=") for name in names]
    given = plain[: len(args)] + list(kwargs)
    needed = {name for name in names if not name.endswith("=")}
    return len(args) <= len(names) and needed <= set(given) and len(set(given)) == len(given) <= len(names)


class Checked:
    """An object of a class of NVIDIA's, of which only what that class really has can be used."""

    def __init__(self, kind: str, known: dict[str, Any], real: Any) -> None:
        self.__dict__.update(_kind=kind, _known=known, _real=real)

    def _of(self, name: str) -> Any:
        assert name in self._known, f"{self._kind} has no {name}"
        return self._known[name]

    def __getattr__(self, name: str) -> Any:
        said = self._of(name)
        if not isinstance(said, list):
            return getattr(self._real, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            assert any(accepts(each, args, kwargs) for each in said), f"{self._kind}.{name} takes {said}"
            return getattr(self._real, name)(*args, **kwargs)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        assert self._of(name) == "writable", f"{self._kind}.{name} cannot be written"
        setattr(self._real, name, value)


# --- CUDA ------------------------------------------------------------------------------------------------------------


class Cuda:
    """`cuda.bindings.runtime` on the host's memory. `fail` maps a function's name to the error that it gives."""

    def __init__(self) -> None:
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.graphs: set[int] = set()
        self.recorded: list[Callable[[], None]] | None = None
        self.pending: list[Callable[[], None]] = []
        self.made = 0

    def module(self, version: str = "cuda-bindings-13") -> Any:
        known = signatures(version)
        module = types.SimpleNamespace()
        for name, said in known.items():
            if isinstance(said, list):
                setattr(module, name, self._function(name, said))
            elif isinstance(said, dict):
                values = [member for member in said if member.startswith("cuda")]
                setattr(module, name, types.SimpleNamespace(**{value: value for value in values}))
        return module

    def _function(self, name: str, said: list[str]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            assert any(accepts(each, args, {}) for each in said), f"{name} takes {said}"
            self.calls.append(name)
            if name in self.fail:
                self.recorded = None if name == "cudaStreamEndCapture" else self.recorded
                return (Error(self.fail[name]), None)
            result = getattr(self, f"_{name}")(*args)
            return (Error(0),) if result is None else (Error(0), result)

        return call

    def put(self, work: Callable[[], None]) -> None:
        """Put work into the stream: recorded while a graph is captured, else done when somebody waits."""
        (self.pending if self.recorded is None else self.recorded).append(work)

    def _new(self) -> int:
        self.made += 1
        return self.made

    def _cudaSetDevice(self, number: int) -> None:
        assert number == 0

    def _cudaMalloc(self, size: int) -> int:
        block = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _cudaHostAlloc(self, size: int, flags: int) -> int:
        return self._cudaMalloc(size)

    def _cudaFree(self, address: int) -> None:
        del self.memory[address]

    _cudaFreeHost = _cudaFree

    def _cudaStreamCreate(self) -> int:
        self.streams.add(number := self._new())
        return number

    def _cudaStreamDestroy(self, number: int) -> None:
        self.streams.remove(number)

    def _cudaMemcpyAsync(self, target: int, source: int, count: int, kind: str, stream: int) -> None:
        inside = [a for a, block in self.memory.items() if a in (target, source) and count <= len(block)]
        assert len(inside) == 2
        assert stream in self.streams
        assert kind in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost")
        self.put(lambda: ctypes.memmove(target, source, count))

    def _cudaStreamSynchronize(self, stream: int) -> None:
        work, self.pending = self.pending, []
        for each in work:
            each()

    def _cudaStreamBeginCapture(self, stream: int, mode: str) -> None:
        assert self.recorded is None
        self.recorded = []

    def _cudaStreamEndCapture(self, stream: int) -> Any:
        graph, self.recorded = self.recorded, None
        return graph

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        self.graphs.add(number := self._new())
        return Graph(number, graph)

    def _cudaGraphDestroy(self, graph: Any) -> None:
        pass

    def _cudaGraphExecDestroy(self, graph: Any) -> None:
        self.graphs.remove(graph.number)

    def _cudaGraphLaunch(self, graph: Any, stream: int) -> None:
        assert graph.number in self.graphs
        self.pending += graph.work


class Graph:
    def __init__(self, number: int, work: list[Callable[[], None]]) -> None:
        self.number, self.work = number, work


class Error(int):
    name = "cudaErrorMemoryAllocation"


# --- TensorRT --------------------------------------------------------------------------------------------------------


class TensorRT:
    """A TensorRT module of one version. `wrong` names calls that fail, as TensorRT fails: with None or False."""

    def __init__(self, name: str, cuda: Cuda | None = None) -> None:
        self.known, self.cuda, self.wrong = signatures(name), cuda, set[str]()
        self.profiles: list[Any] = []
        self.frames_of: Callable[[int], int] = lambda samples: -(-samples // 640)
        self.built: dict[str, Any] = {}
        self.module = self._module(name.rsplit("-", 1)[1])

    def refuses(self, call: str) -> bool:
        if call in self.wrong:
            self.logger.log(self.module.ILogger.Severity.ERROR, f"{call} failed.\nand more")
        return call in self.wrong

    def checked(self, kind: str, real: Any) -> Any:
        return Checked(kind, self.known[kind], real)

    def _module(self, version: str) -> Any:
        module = types.SimpleNamespace(__version__=version)
        for name, members in self.known.items():
            if isinstance(members, dict) and "value" in members.values():
                plain = [key for key, said in members.items() if said == "value"]
                setattr(module, name, enum.IntEnum(name, plain, start=0))
        severities = [key for key, said in self.known["ILogger"]["Severity"].items() if said == "value"]
        module.ILogger = type("ILogger", (), {"Severity": enum.IntEnum("Severity", severities)})
        module.IProgressMonitor = type("IProgressMonitor", (), {})
        module.Runtime = self._runtime
        if "Builder" in self.known:
            module.Builder, module.OnnxParser = self._builder, self._parser
        return module

    # a runtime, an engine, a context

    def _runtime(self, logger: Any) -> Any:
        self.logger = logger
        return self.checked("Runtime", self)

    engine_host_code_allowed = False

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        if self.refuses("deserialize_cuda_engine"):
            return None
        return self.checked("ICudaEngine", Engine(self, content))

    # a builder, a network, a parser

    def _builder(self, logger: Any) -> Any:
        self.logger = logger
        return self.checked("Builder", self)

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return self.checked("INetworkDefinition", self)

    def _parser(self, network: Any, logger: Any) -> Any:
        return self.checked("OnnxParser", self)

    num_errors = 1

    def parse(self, content: bytes) -> bool:
        self.built["graph"] = bytes(content)
        return "parse" not in self.wrong

    def get_error(self, index: int) -> Any:
        error = types.SimpleNamespace(desc=lambda: "Plugin not found", node_name=lambda: "encoder.odd")
        return self.checked("ParserError", error)

    def create_builder_config(self) -> Any:
        return self.checked("IBuilderConfig", Config(self))

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        made = types.SimpleNamespace(set_shape=lambda name, *sizes: shapes.__setitem__(name, sizes), shapes=shapes)
        return self.checked("IOptimizationProfile", made)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        monitor = config._real.progress_monitor
        for name in ("phase_start", "step_complete", "phase_finish"):
            (said,) = self.known["IProgressMonitor"][name]
            code = getattr(type(monitor), name).__code__
            assert list(code.co_varnames[1 : code.co_argcount]) == parameters(said)
        monitor.phase_start("Building", None, 2)
        assert monitor.step_complete("Building", 0) is True
        monitor.phase_finish("Building")
        self.built["config"] = config._real
        return None if self.refuses("build_serialized_network") else self.built["graph"]


class Config:
    def __init__(self, owner: TensorRT) -> None:
        self.owner, self.profiles, self.flags = owner, [], []
        self.hardware_compatibility_level: Any = None
        self.progress_monitor: Any = None
        self.cache = b""

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile._real.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> Any:
        self.cache = content
        return self.owner.checked("ITimingCache", self)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return not self.owner.refuses("set_timing_cache")

    def get_timing_cache(self) -> Any:
        return self.owner.checked("ITimingCache", self)

    def serialize(self) -> bytes:
        return self.cache + b"+"


class Engine:
    """An engine whose bytes are an ONNX model of a bundle's signature."""

    names = ("waveform", "lengths", "log_probs", "frames")

    def __init__(self, owner: TensorRT, content: bytes) -> None:
        self.owner = owner
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(owner.profiles)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.owner.module.TensorIOMode
        return modes.INPUT if name in self.names[:2] else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = self.owner.module.DataType
        return kinds.INT64 if name in ("lengths", "frames") else kinds.FLOAT

    def is_shape_inference_io(self, name: str) -> bool:
        return name == "lengths" and "is_shape_inference_io" in self.owner.wrong

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, -1, 7) if "tokens" in self.owner.wrong else (-1, -1, self.session.get_outputs()[0].shape[2])

    def create_execution_context(self) -> Any:
        if self.owner.refuses("create_execution_context"):
            return None
        return self.owner.checked("IExecutionContext", Context(self))


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.owner = engine, engine.owner
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profile: Any = None

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.owner.cuda.streams
        self.profile = self.owner.profiles[index]
        return not self.owner.refuses("set_optimization_profile_async")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.profile[name]
        inside = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        assert inside, f"{name} {shape} is beyond the profile, which TensorRT refuses"
        self.shapes[name] = tuple(shape)
        return not self.owner.refuses("set_input_shape")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if "get_tensor_shape" in self.owner.wrong:
            return (-1, -1, -1)
        batch, samples = self.shapes["waveform"]
        tokens = self.engine.session.get_outputs()[0].shape[2]
        return (batch, self.owner.frames_of(samples), tokens) if name == "log_probs" else (batch,)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory in self.owner.cuda.memory
        self.addresses[name] = memory
        return not self.owner.refuses("set_tensor_address")

    def execute_async_v3(self, stream: int) -> bool:
        if self.owner.refuses("execute_async_v3"):
            return False
        if self.owner.cuda.recorded is not None and self.owner.refuses("capture"):
            return False
        shapes = dict(self.shapes)
        self.owner.cuda.put(lambda: self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        kinds = {"waveform": np.float32, "lengths": np.int64, "log_probs": np.float32, "frames": np.int64}
        memory = {
            name: np.frombuffer(self.owner.cuda.memory[self.addresses[name]], kind) for name, kind in kinds.items()
        }
        inputs = {name: memory[name][: np.prod(shapes[name])].reshape(shapes[name]) for name in ("waveform", "lengths")}
        for name, value in zip(("log_probs", "frames"), self.engine.session.run(None, inputs), strict=True):
            memory[name][: value.size] = value.ravel()
