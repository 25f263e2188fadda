"""Connectionist temporal classification: how unlikely a text is, whatever its alignment (Graves et al. 2006)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from asr_training.kernels import LANES, call, kernels


def ctc_loss(log_probs: Tensor, frames: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of the texts of a batch together, natural log; those that no path fits count 0.

    Takes log-probabilities [batch, frames, tokens] of a softmax, the blank last, int64 [batch] of frames, and int64
    labels of all texts one after the other with int64 [batch] of how many each has. On a CPU a kernel sums float32;
    its gradient is that of the log-probabilities alone, PyTorch's that of the softmax as well: before the softmax they
    are one. Raises ValueError for lengths, counts or labels that do not fit.
    """
    longest, tokens = log_probs.shape[1:]
    fits = log_probs.device.type == "cpu" and {frames.dtype, labels.dtype, counts.dtype} == {torch.int64}
    if fits and log_probs.dtype == torch.float32 and log_probs.requires_grad and kernels() is not None:
        refuse_outside("lengths", frames, log_probs.shape[:1], longest)
        refuse_outside("counts", counts, log_probs.shape[:1], labels.numel())
        refuse_outside("labels", labels, torch.Size([int(counts.sum())]), tokens - 2)
        losses: Tensor = Compiled.apply(log_probs, frames, labels, counts)  # type: ignore[no-untyped-call]
        return losses.sum()
    return F.ctc_loss(
        log_probs.transpose(0, 1), labels, frames, counts, tokens - 1, reduction="sum", zero_infinity=True
    )


def refuse_outside(name: str, values: Tensor, shape: torch.Size, most: int) -> None:
    """Raise ValueError unless `values` are of that shape and from 0 to `most`: the kernel reads what they point to."""
    if values.shape != shape:
        raise ValueError(f"{name} are {list(values.shape)}, but {list(shape)} are wanted")
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) <= most:
        raise ValueError(f"{name} are {int(values.min())} to {int(values.max())}, but 0 to {most} are wanted")


class Compiled(torch.autograd.Function):
    """The passes in C (`training/csrc/ctc.c`), for float32 on a CPU, both at once: the loss of each text, [batch]."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, log_probs: Tensor, frames: Tensor, labels: Tensor, counts: Tensor
    ) -> Tensor:
        """Take what `ctc_loss` does."""
        batch, longest, tokens = log_probs.shape
        log_probs = log_probs.detach().contiguous()
        wide = 2 * LANES + -(-(int(counts.max()) + 1) // LANES) * LANES
        workspace = log_probs.new_empty((longest + 2) * 2 * wide + 3 * wide)
        losses, gradient = log_probs.new_empty(batch), torch.zeros_like(log_probs)
        given = log_probs, labels.contiguous(), frames.contiguous(), counts.contiguous()
        call("ctc", (*given, workspace, losses, gradient), batch, longest, tokens, wide)
        ctx.gradient = gradient  # type: ignore[attr-defined]
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the log-probabilities."""
        return ctx.gradient * grad[:, None, None], None, None, None  # type: ignore[attr-defined]
