"""Weights in fewer bits than they are computed with.

The graph widens them again with nodes that an engine folds when it loads the file, so a compact model is as fast as
the plain one. Rounding is done to the PyTorch model first: the proof of the graph stays as strict as without it, and
what rounding itself changes is measured apart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asr_training.model import AcousticModel

PRECISIONS = {"fp32": "fp32", "fp16": "fp32-w16", "int8": "fp32-w8"}  # storage: precision as bundles name it
LEVELS = 127  # of 8 bits on either side of 0
# Where weights are multiplied in 8 bits they have 7: processors with AVX2 and without VNNI add two products with an
# unsigned byte in 16 bits, and 2 · 255 · 127 does not fit.
PRODUCT_LEVELS = 63

Array = npt.NDArray[Any]


def quantised(weight: Array, channels: Sequence[int], levels: int = LEVELS) -> tuple[Array, Array]:
    """Int8 values up to `levels` and float32 scales of `weight`, one scale for each index of the axes `channels`."""
    others = tuple(axis for axis in range(weight.ndim) if axis not in channels)
    scale = (np.abs(weight).max(others, keepdims=True) / levels).astype(np.float32)
    scale[scale == 0] = 1
    return np.round(weight / scale).astype(np.int8), scale


def rounded(model: AcousticModel, storage: str) -> AcousticModel:
    """A copy of `model` whose matrices and kernels hold only values that `storage` can; vectors stay as they are."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.from_numpy(round_weight(parameter.detach().numpy(), storage))
    return model


def round_weight(weight: Array, storage: str) -> Array:
    """The nearest values that `storage` can hold, in float32; output channels are on the first axis."""
    if storage == "int8":
        values, scale = quantised(weight, (0,))
        return values * scale
    return weight.astype(np.float16).astype(np.float32) if storage == "fp16" else weight
