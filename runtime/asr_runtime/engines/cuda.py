"""ONNX Runtime on an NVIDIA GPU.

ONNX Runtime takes the CPU without a word where its CUDA libraries are missing, and leaves single nodes there where it
has no kernel; here the first is an error with its cause, and the second is counted and named.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import threading
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_runtime.bundle import Bundle
from asr_runtime.engines import driver, whole_seconds
from asr_runtime.engines.onnx import OUTPUTS, check_batch, check_model, new_session, onnx_model, unpad
from asr_runtime.errors import EngineError

PROVIDER = "CUDAExecutionProvider"
OPTIONS = {
    "device_id": "0",
    "arena_extend_strategy": "kSameAsRequested",  # by default it doubles, which a long batch makes dear
    "cudnn_conv_algo_search": "HEURISTIC",  # by default each new shape tries all algorithms, for seconds
    "cudnn_conv_use_max_workspace": "1",
}
INSTALL = "run `pip uninstall -y onnxruntime onnxruntime-gpu` and `pip install 'asr-deploy[gpu]'`"


class CudaEngine:
    """A bundle's ONNX model on the first GPU: the one in float16, if there is one and no `precision` is given.

    `elsewhere` counts the nodes that run on the CPU, by operator. One thread computes at a time.
    """

    device = "cuda"
    batch_size = 16

    def __init__(self, bundle: Bundle, *, precision: str | None = None) -> None:
        gpu = driver.probe().gpus[0]
        refuse_two_wheels()
        file = onnx_model(bundle, precision, half=True)
        self._tokens, self._rate, self._padding = len(bundle.tokens), bundle.sample_rate, bundle.padding
        self._session, version = gpu_session(bundle.path(file), file.precision == "fp16")
        check_model(self._session, bundle)
        self._lock = threading.Lock()
        self.elsewhere = nodes_elsewhere(self._session)
        self.description = f"ONNX Runtime {version}, {file.precision}, {gpu.name}{told(self.elsewhere)}"

    def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """See `Engine.log_probs`."""
        check_batch(waveforms, lengths, padding=self._padding)
        wanted = whole_seconds(waveforms.shape[1], self._rate) if self._padding else waveforms.shape[1]
        more = wanted - waveforms.shape[1]
        with self._lock:
            outputs = run_bound(self._session, np.pad(waveforms, ((0, 0), (0, more))), lengths)
        return unpad(*outputs, batch=len(waveforms), tokens=self._tokens)


def refuse_two_wheels() -> None:
    """Raise EngineError unless onnxruntime-gpu is installed and onnxruntime, which overwrites its files, is not."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if found == ["onnxruntime"]:
        raise EngineError(f"the installed onnxruntime is the CPU build; {INSTALL}.")
    if len(found) == 2:
        raise EngineError(f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other; {INSTALL}.")


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def gpu_session(model: Path, half: bool) -> tuple[Any, str]:
    """A session that really holds the CUDA provider, and ONNX Runtime's version; raises EngineError."""
    session, onnxruntime = new_session(model, half, [(PROVIDER, OPTIONS), "CPUExecutionProvider"], _preloaded)
    if PROVIDER not in session.get_providers():
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} took the CPU in place of the GPU ({_reason(onnxruntime)}); "
            f"{INSTALL}."
        )
    return session, onnxruntime.__version__


def _preloaded(onnxruntime: Any) -> None:
    """Load the CUDA libraries of Python packages; it prints what it misses, which a session tells better."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _reason(onnxruntime: Any) -> str:
    """Why the provider does not load: as a rule the name of a missing library."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return "its libraries load, so the GPU or the driver is too old for them"


def nodes_elsewhere(session: Any) -> Counter[str]:
    """How many nodes do not run on the GPU, by operator; empty where ONNX Runtime is too old to tell."""
    parts: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    return Counter(node.op_type for part in parts if part.ep_name != PROVIDER for node in part.get_nodes())


def told(elsewhere: Counter[str]) -> str:
    """The nodes elsewhere in words."""
    if not elsewhere:
        return ""
    return (
        f", {elsewhere.total()} nodes on the CPU ({', '.join(f'{n} {name}' for name, n in elsewhere.most_common(6))})"
    )


def run_bound(
    session: Any, waveforms: NDArray[np.float32], lengths: NDArray[np.int64], device: str = "cuda"
) -> list[NDArray[Any]]:
    """Run with inputs and outputs bound to the device's memory: one copy each way, none between the nodes."""
    import onnxruntime

    try:
        binding = session.io_binding()
        for name, value in (("waveform", waveforms), ("lengths", lengths)):
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0))
        for name in OUTPUTS:
            binding.bind_output(name, device, 0)
        session.run_with_iobinding(binding)
        outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
    except Exception as error:  # ONNX Runtime's kinds of errors have no common one
        first = str(error).strip().split("\n")[0].rstrip(".")[:300]
        raise EngineError(f"ONNX Runtime failed on the GPU ({first}); use smaller batches or --device cpu.") from error
    return outputs
