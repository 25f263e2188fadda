"""A CUDA stream with its memory and graphs, on NVIDIA's cuda-bindings; each call's error is looked at."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from asr_runtime.errors import EngineError


def cuda_runtime() -> Any:
    """The module cuda.bindings.runtime; raises EngineError where it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"the package cuda-bindings cannot be imported ({error}); run `pip install 'asr-deploy[tensorrt]'`."
        ) from error
    return runtime


class Buffer:
    """Memory of one tensor on both sides: `host`, a page-locked array [items] that copies run at full speed from, and
    `device`, an address.
    """

    def __init__(self, stream: Stream, items: int, dtype: DTypeLike) -> None:
        size = max(items, 1) * np.dtype(dtype).itemsize
        self.device = int(stream.take("cudaMalloc", "cudaFree", size))
        address = int(stream.take("cudaHostAlloc", "cudaFreeHost", size, 0))
        memory = (ctypes.c_char * size).from_address(address)
        self.host: NDArray[Any] = np.frombuffer(memoryview(memory), dtype)

    def view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first items of `host` in that shape."""
        return self.host[: prod(shape)].reshape(shape)


class Stream:
    """One stream on the first GPU. Calls raise EngineError with CUDA's own name of the error."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._taken: list[tuple[str, Any]] = []
        self.call("cudaSetDevice", 0)
        self._stream = self.take("cudaStreamCreate", "cudaStreamDestroy")

    @property
    def handle(self) -> int:
        """As TensorRT wants it."""
        return int(self._stream)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; return what it gives beside its error."""
        error, *results = getattr(self._runtime, name)(*arguments)
        if int(error):
            kind = getattr(error, "name", error)
            raise EngineError(f"CUDA failed in {name} ({kind}); see what nvidia-smi says, or use --device cpu.")
        return results[0] if results else None

    def take(self, name: str, release: str, *arguments: Any) -> Any:
        """Call `name`, and `release` on its result when the stream closes."""
        result = self.call(name, *arguments)
        self._taken.append((release, result))
        return result

    def upload(self, buffer: Buffer, count: int) -> None:
        """Copy the first `count` items of a buffer to the GPU, in the stream's order."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        size = count * buffer.host.itemsize
        self.call("cudaMemcpyAsync", buffer.device, buffer.host.ctypes.data, size, kind, self._stream)

    def download(self, buffer: Buffer, count: int) -> None:
        """Copy the first `count` items of a buffer from the GPU, in the stream's order."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        size = count * buffer.host.itemsize
        self.call("cudaMemcpyAsync", buffer.host.ctypes.data, buffer.device, size, kind, self._stream)

    def wait(self) -> None:
        """Wait until all that was put into the stream is done."""
        self.call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` puts into the stream as a graph to `launch`; raises EngineError where it cannot be captured."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except EngineError:
            self._runtime.cudaStreamEndCapture(self._stream)  # says what went wrong once more
            raise
        graph = self.call("cudaStreamEndCapture", self._stream)
        try:
            return self.take("cudaGraphInstantiate", "cudaGraphExecDestroy", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Put a captured graph into the stream."""
        self.call("cudaGraphLaunch", graph, self._stream)

    def drop(self, graph: Any) -> None:
        """Free a captured graph before the stream closes."""
        self._taken = [(release, taken) for release, taken in self._taken if taken is not graph]
        self.call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Free all that was taken, the latest first; a GPU that failed may refuse, which nobody can help."""
        while self._taken:
            release, result = self._taken.pop()
            getattr(self._runtime, release)(result)
