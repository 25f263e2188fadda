"""How likely any text at all is: what lattice-free maximum mutual information takes off the CTC loss.

CTC makes the right text likely. Maximum mutual information makes it more likely than the others, each weighed by a
bigram of tokens, so that the model need not learn which tokens follow each other: the language model knows (Povey et
al. 2016, "Purely sequence-trained neural networks for ASR based on lattice-free MMI"; with CTC's topology as in Hadian
et al. 2018, "End-to-end speech recognition using lattice-free MMI"). The sum over all texts is a forward-backward pass
over two states for each token, in it and in the blank behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

SMOOTHING = 0.05  # share of a bigram's probability that comes from the token's own frequency


class Bigram:
    """Probabilities of the tokens of texts, by the token before; the blank is no token of a text.

    `moves` float32 [2 · (tokens + 1), the same] is how likely a state is to follow another, with states
    (in a token, the last being none yet; in the blank behind it), `ends` float32 [2 · (tokens + 1)] how likely a text
    ends in one. States in a token may stay, and go to another token, or to the same one through the blank alone.
    """

    def __init__(self, texts: Iterable[np.ndarray], tokens: int) -> None:
        start = end = tokens  # a row and a column of their own
        counts = np.zeros((tokens + 1, tokens + 1))
        for labels in texts:
            if len(labels):
                np.add.at(counts, (np.r_[start, labels], np.r_[labels, end]), 1)
        single = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * (tokens + 1))
        rows = counts.sum(1, keepdims=True)
        share = np.where(rows > 0, SMOOTHING, 1.0)
        follow = (1 - share) * counts / np.maximum(rows, 1) + share * single
        to_token, ends = follow.copy(), follow[:, end]
        to_token[:, end] = 0  # no frame is in the token that is none
        same = np.eye(tokens + 1)
        from_token = np.hstack([to_token * (1 - same) + same, same])
        from_blank = np.hstack([to_token, same])
        self.tokens = tokens
        self.moves = torch.from_numpy(np.vstack([from_token, from_blank]).astype(np.float32))
        self.ends = torch.from_numpy(np.r_[ends, ends].astype(np.float32))


def denominator(log_probs: Tensor, frames: Tensor, bigram: Bigram) -> Tensor:
    """Log-likelihood of all texts together, natural log, float32 [batch].

    Takes log-probabilities float32 [batch, frames, tokens + 1], the blank last, and int64 [batch] of frames, each at
    least 1.
    """
    total: Tensor = Total.apply(log_probs, frames, bigram)  # type: ignore[no-untyped-call]
    return total


class Total(torch.autograd.Function):
    """The forward pass; its gradient, from the backward pass, is how much each token is in use at each frame."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, log_probs: Tensor, frames: Tensor, bigram: Bigram) -> Tensor:
        """Take and return what `denominator` does."""
        batch, longest, _ = log_probs.shape
        moves, ends = bigram.moves.to(log_probs.device), bigram.ends.to(log_probs.device)
        emitted = emissions(log_probs.detach(), bigram.tokens)
        inside = (torch.arange(longest, device=frames.device)[None] < frames[:, None]).unbind(1)
        state = log_probs.new_zeros(batch, 2 * bigram.tokens + 2)
        state[:, -1] = 1  # in the blank behind no token
        states, scales = [], []
        for t in range(longest):
            following = (state @ moves) * emitted[:, t]
            scale = torch.where(inside[t], following.sum(1), 1.0)
            state = torch.where(inside[t][:, None], following / scale[:, None], state)
            states.append(state)
            scales.append(scale)
        last = state @ ends
        ctx.states, ctx.scales, ctx.inside, ctx.emitted = states, scales, inside, emitted  # type: ignore[attr-defined]
        ctx.last, ctx.bigram = last, bigram  # type: ignore[attr-defined]
        return torch.stack(scales).log().sum(0) + last.log()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the log-probabilities."""
        states, scales, inside, emitted = ctx.states, ctx.scales, ctx.inside, ctx.emitted  # type: ignore[attr-defined]
        bigram, tokens = ctx.bigram, ctx.bigram.tokens  # type: ignore[attr-defined]
        backwards = bigram.moves.to(grad.device).t().contiguous()
        rest = bigram.ends.to(grad.device)[None] / ctx.last[:, None]  # type: ignore[attr-defined]
        used = []
        for t in reversed(range(len(states))):
            used.append(states[t] * rest * inside[t][:, None])
            earlier = (rest * emitted[:, t] / scales[t][:, None]) @ backwards
            rest = torch.where(inside[t][:, None], earlier, rest)
        every = torch.stack(used[::-1], 1)
        blank = every[:, :, tokens + 1 :].sum(2, keepdim=True)
        return torch.cat([every[:, :, :tokens], blank], 2) * grad[:, None, None], None, None


def emissions(log_probs: Tensor, tokens: int) -> Tensor:
    """The probability of each state's token at each frame, [batch, frames, 2 · (tokens + 1)]."""
    probabilities = log_probs.exp()
    none = torch.zeros_like(probabilities[:, :, :1])
    blank = probabilities[:, :, tokens:].expand(-1, -1, tokens + 1)
    return torch.cat([probabilities[:, :, :tokens], none, blank], 2)
