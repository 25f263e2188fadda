"""The C kernels of training (`training/csrc`), for CPUs, and how they are called."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import cache

from torch import Tensor

LANES = 16  # floats that they take at a time: rows are of a multiple of it


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where the package was built without them."""
    found = importlib.util.find_spec("asr_training._kernels")  # no module of Python's, but found like one
    return ctypes.CDLL(found.origin) if found and found.origin else None


def call(kernel: str, tensors: Sequence[Tensor | None], *sizes: int) -> None:
    """Call a kernel with the places of contiguous tensors, and with sizes; it runs on the core that calls it."""
    library = kernels()
    assert library is not None  # those who call have asked
    places = (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)
    getattr(library, kernel)(*places, *(ctypes.c_long(size) for size in sizes))
