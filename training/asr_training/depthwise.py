"""Depthwise convolution over time for training: PyTorch's, or a C kernel that is faster on CPUs.

PyTorch's depthwise convolution takes several times as long as the two matrix products beside it in bfloat16, and a
sixth of a whole step in float32; the kernel (`training/csrc/depthwise.c`) removes that. Weights and results are the
same, so nothing else knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_training.kernels import LANES, call, kernels

TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}  # that the kernel has, as its functions end


class DepthwiseFunction(torch.autograd.Function):
    """The kernel with its gradient; x is of one of TYPES, [batch, frames, channels], weight [channels, 1, taps]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return y of the shape of x."""
        x, taps = x.contiguous(), weight.detach()[:, 0].t().float().contiguous()
        y = torch.empty_like(x)
        call(f"depthwise_{TYPES[x.dtype]}", (x, taps, bias.detach().float(), y), *x.shape, len(taps), 0)
        ctx.save_for_backward(x, taps)
        ctx.types = weight.dtype, bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of x, weight and bias."""
        x, taps = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        dx, dtaps, dbias = torch.empty_like(x), torch.empty_like(taps), torch.empty(x.shape[2])
        sizes, kind = (*x.shape, len(taps)), TYPES[x.dtype]
        call(f"depthwise_{kind}", (gradient, taps, None, dx), *sizes, 1)
        call(f"depthwise_gradient_{kind}", (x, gradient, dtaps, dbias), *sizes)
        return dx, dtaps.t()[:, None].to(ctx.types[0]), dbias.to(ctx.types[1])


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel of x [batch, frames, channels] over time with its own taps; padding is zero, size kept."""
    fast = x.device.type == "cpu" and x.dtype in TYPES and x.shape[2] % LANES == 0
    # A tracer, as that of torch.onnx.export, would take the kernel's result for a constant.
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if fast and torch.is_grad_enabled() and not traced and kernels() is not None:
        y: Tensor = DepthwiseFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    padding, channels = weight.shape[2] // 2, x.shape[2]
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=channels).transpose(1, 2)
