"""Recognisers that are measured: ours, and others on the same recordings, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from asr_runtime.bundle import Bundle
from asr_runtime.errors import EngineError

OURS = "asr_runtime"
Setting = dict[str, Any]  # system, device, precision, threads, batch_size


class System(Protocol):
    """A loaded recogniser."""

    device: str  # what really computes, for people

    def texts(self, files: Sequence[str]) -> Iterator[str]:
        """What is said in each file, in order. Raises AsrError."""


@dataclass(frozen=True)
class Known:
    """A recogniser's `module` here, whose `load(model, setting, options)` gives a System, and its `package`.

    `model` says what --peer NAME=… must name ("": the package brings a model); `varies` which of a setting's parts
    make a difference.
    """

    module: str
    package: str
    model: str = ""
    varies: tuple[str, ...] = ()


KNOWN = {
    OURS: Known("ours", "asr_runtime", "bundle", ("device", "precision", "threads", "batch_size")),
    "torch": Known("torch_eager", "torch", "checkpoint", ("threads", "batch_size")),
    "pocketsphinx": Known("sphinx", "pocketsphinx"),
    "onnx-asr": Known("onnx_asr_models", "onnx_asr", "folder", ("threads", "batch_size")),
    "sherpa-onnx": Known("sherpa", "sherpa_onnx", "folder", ("threads", "batch_size")),
    "plain-loop": Known("plain_loop", "onnxruntime", "bundle", ("precision", "threads")),
}


@dataclass(frozen=True)
class Entry:
    """A recogniser in a comparison: its name in KNOWN, its model's path, and options of the decoder."""

    system: str
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(
        self, devices: Sequence[str], precisions: Sequence[str], threads: Sequence[int], batches: Sequence[int]
    ) -> list[Setting]:
        """Those points of a grid that are different for this one; `precisions` empty: the model's first."""
        grid: dict[str, list[Any]] = {
            "device": list(devices),
            "precision": list(precisions) or [""],
            "threads": list(threads),
            "batch_size": list(batches),
        }
        alone: Setting = {"device": "cpu", "precision": "", "threads": 1, "batch_size": 1}
        varies = KNOWN[self.system].varies
        axes = [values if name in varies else [alone[name]] for name, values in grid.items()]
        return [{"system": self.system, **dict(zip(grid, values, strict=True))} for values in product(*axes)]

    def request(self, setting: Setting) -> dict[str, Any]:
        """What `load` needs, for JSON."""
        return {"model": self.model, "setting": setting, "options": dict(self.options)}


def load(request: Mapping[str, Any]) -> System:
    """The recogniser that `Entry.request` describes; raises AsrError."""
    known = KNOWN[request["setting"]["system"]]
    module = import_module(f"asr_bench.systems.{known.module}")
    loaded: System = module.load(request["model"], request["setting"], request["options"])
    return loaded


def entries(bundle: Path, peers: Sequence[str], options: Mapping[str, Any]) -> list[Entry]:
    """Ours with `bundle`, and `peers` (NAME or NAME=MODEL); without any, all installed that bring a model.

    Raises EngineError for a peer that is not known, not installed or lacks its model.
    """
    Bundle.load(bundle)
    options = {**options, "bundle": str(bundle)}
    if not peers:
        peers = [name for name, known in KNOWN.items() if not known.model and find_spec(known.package)]
    found = [Entry(OURS, str(bundle), options)]
    return found + [_peer(peer, options) for peer in peers if peer != OURS]


def _peer(peer: str, options: Mapping[str, Any]) -> Entry:
    name, _, model = peer.partition("=")
    if name not in KNOWN:
        raise EngineError(f"got the peer {name!r}; wanted one of {', '.join(KNOWN)}.")
    known = KNOWN[name]
    if find_spec(known.package) is None:
        raise EngineError(f"{name} is not installed; install {known.package}, or leave this peer out.")
    if known.model and not (model and Path(model).exists()):
        raise EngineError(f"got {peer!r}; wanted {name}={known.model.upper()} with the path of a {known.model}.")
    return Entry(name, model, options)
