"""The C kernels of training (`training/csrc`), for CPUs, and what they are called with."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache

from torch import Tensor


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where the package was built without them."""
    found = importlib.util.find_spec("asr_training._kernels")  # no module of Python's, but found like one
    return ctypes.CDLL(found.origin) if found and found.origin else None


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's data lie, as a kernel takes it."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
