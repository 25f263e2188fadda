"""Connectionist temporal classification: how unlikely a text is, whatever its alignment (Graves et al. 2006)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_training.kernels import LANES, call, kernels


def ctc_loss(log_probs: Tensor, frames: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of the texts of a batch together, natural log; those that no path fits count 0.

    Takes log-probabilities float32 [batch, frames, tokens], the blank last, int64 [batch] of frames, and the labels of
    all texts one after the other with int64 [batch] of how many each has.
    """
    fits = log_probs.device.type == "cpu" and {frames.dtype, labels.dtype, counts.dtype} == {torch.int64}
    if fits and log_probs.dtype == torch.float32 and log_probs.requires_grad and kernels() is not None:
        losses: Tensor = Compiled.apply(log_probs, frames, labels, counts)  # type: ignore[no-untyped-call]
        return losses.sum()
    blank = log_probs.shape[2] - 1
    return F.ctc_loss(log_probs.transpose(0, 1), labels, frames, counts, blank, reduction="sum", zero_infinity=True)


class Compiled(torch.autograd.Function):
    """The passes in C (`training/csrc/ctc.c`), for float32 on a CPU, both at once: the loss of each text, [batch].

    The gradient is that of log-probabilities as they are, where PyTorch's is that of a softmax before them as well.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, log_probs: Tensor, frames: Tensor, labels: Tensor, counts: Tensor
    ) -> Tensor:
        """Take what `ctc_loss` does."""
        batch, longest, tokens = log_probs.shape
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < tokens - 1:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}, but those of {tokens} tokens are wanted")
        log_probs = log_probs.detach().contiguous()
        wide = 2 * LANES + -(-(int(counts.max()) + 1) // LANES) * LANES
        room = torch.empty((longest + 2) * 2 * wide + 2 * wide)
        losses, gradient = torch.empty(batch), torch.zeros_like(log_probs)
        given = log_probs, labels.contiguous(), frames.contiguous(), counts.contiguous()
        call("ctc", (*given, room, losses, gradient), batch, longest, tokens, wide)
        ctx.gradient = gradient  # type: ignore[attr-defined]
        return losses

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the log-probabilities."""
        return ctx.gradient * grad[:, None, None], None, None, None  # type: ignore[attr-defined]
