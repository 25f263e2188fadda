from __future__ import annotations

import pytest
import torch
from built import needs_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asr_training.depthwise import depthwise


@needs_kernels
@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    batch=st.integers(1, 3),
    frames=st.integers(1, 40),
    blocks=st.integers(1, 3),
    half=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_the_kernel_equals_pytorch_with_its_gradients(
    dtype: torch.dtype, batch: int, frames: int, blocks: int, half: int, seed: int
) -> None:
    generator, channels, taps = torch.Generator().manual_seed(seed), 16 * blocks, 2 * half + 1
    x = torch.randn(batch, frames, channels, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(channels, 1, taps, generator=generator).requires_grad_()
    bias = torch.randn(channels, generator=generator).requires_grad_()
    gradient = torch.randn(batch, frames, channels, generator=generator).to(dtype)
    y = depthwise(x, weight, bias)
    y.backward(gradient)
    exact = [value.detach().float().requires_grad_() for value in (x, weight, bias)]
    z = F.conv1d(exact[0].transpose(1, 2), exact[1], exact[2], padding=half, groups=channels).transpose(1, 2)
    z.backward(gradient.float())
    # half a unit in the last place of bfloat16; float32 differs by the order of its sums
    near = {"rtol": 8e-3, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y.float(), z, **near)
    torch.testing.assert_close(x.grad.float(), exact[0].grad, **near)
    torch.testing.assert_close(weight.grad, exact[1].grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(bias.grad, exact[2].grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("channels", [5, 16])
def test_other_types_and_widths_take_pytorchs_convolution(channels: int) -> None:
    x, weight, bias = (torch.randn(*shape).double() for shape in ((2, 9, channels), (channels, 1, 5), (channels,)))
    expected = F.conv1d(x.transpose(1, 2), weight, bias, padding=2, groups=channels).transpose(1, 2)
    torch.testing.assert_close(depthwise(x, weight, bias), expected)
