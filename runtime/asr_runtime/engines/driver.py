"""The NVIDIA driver, asked before anything else: without one, some of NVIDIA's modules crash, others take the CPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from asr_runtime.errors import EngineError

LIBRARY = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, its compute capability like `8.7`, and its memory in bytes."""

    name: str
    capability: str
    memory: int


@dataclass(frozen=True)
class Driver:
    """The newest CUDA version that the driver runs, like `13.0`, and the GPUs; the first one computes."""

    cuda: str
    gpus: tuple[Gpu, ...]


def probe(library: str = LIBRARY) -> Driver:
    """Ask the driver; raises EngineError where there is none, it does not work, or it shows no GPU."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise EngineError(
            f"there is no NVIDIA driver here ({error}); install one, or start the container with --gpus all."
        ) from error
    _call(cuda, "cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise EngineError("the NVIDIA driver shows no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES.")
    gpus = tuple(_gpu(cuda, number) for number in range(count.value))
    return Driver(f"{version.value // 1000}.{version.value % 1000 // 10}", gpus)


def _gpu(cuda: ctypes.CDLL, number: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), number)
    _call(cuda, "cuDeviceGetName", name, len(name), device)
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(major), MAJOR, device)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", memory.value)


def _call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    try:
        code = getattr(cuda, name)(*arguments)
    except AttributeError as error:
        raise EngineError(f"the NVIDIA driver has no {name}; install a newer one.") from error
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        reason = (text.value or b"unknown").decode(errors="replace")
        raise EngineError(
            f"the NVIDIA driver does not work ({name}: {reason}, error {code}); see what nvidia-smi says."
        )
